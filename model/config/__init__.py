"""What one training run is: everything that can change its numbers, and the name that follows from it. No jax."""

from nextscale.model.config.run import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig

__all__ = ["EvaluationConfig", "ModelConfig", "RunConfig", "TrainingConfig"]
