"""What commands share: where they print, common options, completion, progress, and mistakes in one line."""
