"""Files as tools and people write them: each gives the reference table back, or is refused in one line."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextscale.fit.errors import InputError
from nextscale.fit.table.reading import read_table

NAMES = ("params", "tokens", "loss")
ROWS = (
    (20000000, 2000000000, 3.89627),
    (50000000, 800000000, 3.83640),
    (125000000, 320000000, 4.00091),
    (50000000, 5000000000, 3.31112),
    (125000000, 2000000000, 3.26364),
    (310000000, 800000000, 3.37878),
    (125000000, 12500000000, 2.88940),
    (310000000, 5000000000, 2.85350),
    (775000000, 2000000000, 2.93157),
)
"""Of an exact law: E 1.8, A 480, B 2100, alpha .35, beta .37."""
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
FRAME = pd.DataFrame(RECORDS)


def text(separator=",", *, names=NAMES, end="", header_end="", write=str, between=""):
    lines = [separator.join(names) + header_end, *(separator.join(map(write, row)) + end for row in ROWS)]
    return f"\n{between}".join(lines) + "\n"


def comma(value):
    return str(value).replace(".", ",")


def european(value):
    return f"{value:,}".translate(str.maketrans(",.", ".,"))


def numbered(write, header="", first=1):
    return header + "\n" + "\n".join(write(i, *row) for i, row in enumerate(ROWS, first)) + "\n"


PLAIN = text()
MARKDOWN = "| params | tokens | loss |\n|-------:|:------:|------|\n" + "".join(
    f"| {n} | {d} | **{loss}** |\n" for n, d, loss in ROWS
)
READ = {
    "plain.csv": PLAIN,
    "plain.txt": PLAIN,
    "plain.dat": PLAIN,
    "no_suffix": PLAIN,
    "semicolons.csv": text(";"),
    "tabs.csv": text("\t"),
    "tabs.tsv": text("\t"),
    "bars.csv": text("|"),
    "padded.csv": text(" , "),
    "spaced.txt": text("    "),
    "one_space.txt": text(" "),
    "trailing.csv": text(end=","),
    "trailing_header.csv": text(header_end=","),
    "trailing_both.csv": text(end=",,", header_end=",,"),
    "trailing_semicolon.csv": text(";", end=";"),
    "beside_trailing.csv": numbered(
        lambda i, *row: f"{i},{row[0]},{row[1]},{row[2]},.0029,", "run,params,tokens,loss,lr"
    ),
    "excel_sep.csv": "sep=;\n" + text(";"),
    "comments.csv": "# runs of May\n" + text(between="# one\n"),
    "blank_lines.csv": "\n\n" + text(between="\n") + "\n\n",
    "empty_rows.csv": text(between=",,\n"),
    "savetxt.txt": "# params tokens loss\n" + text(" ").partition("\n")[2],
    "decimal_commas.csv": text(";", write=comma),
    "decimal_commas.tsv": text("\t", write=comma),
    "european.csv": text(";", write=european),
    "double_quotes.csv": text(write=lambda value: f'"{value}"', names=[f'"{name}"' for name in NAMES]),
    "single_quotes.csv": text(write=lambda value: f"'{value}'", names=[f"'{name}'" for name in NAMES]),
    "carriage_returns.csv": PLAIN.replace("\n", "\r\n"),
    "old_mac.csv": PLAIN.replace("\n", "\r"),
    "no_last_end.csv": PLAIN.rstrip(),
    "bom.csv": codecs.BOM_UTF8 + PLAIN.encode(),
    "utf16.txt": text("\t").encode("utf-16"),
    "latin1.csv": ("größe," + PLAIN.replace("\n", "\né,", 9)).encode("latin-1"),
    "r_table.txt": numbered(lambda i, *row: f'"{i}" {row[0]} {row[1]} {row[2]}', '"params" "tokens" "loss"'),
    "r_csv.csv": numbered(lambda i, *row: f'"{i}",{row[0]},{row[1]},{row[2]}', '"","params","tokens","loss"'),
    "pandas_index.csv": FRAME.to_csv(),
    "printed_frame.txt": FRAME.to_string(),
    "markdown.md": f"# Runs\n\n{MARKDOWN}\nThat is all.\n",
    "markdown_of_a_log.md": f"At step 100: loss 3.2\n\n{MARKDOWN}",
    "comment_of_a_log.txt": f"# at step 100: loss 3.2\n{PLAIN}",
    "metrics.csv": numbered(lambda i, *row: f"{i},{row[0]},{row[1]},{row[2]}", "step,params,tokens,loss"),
    "markdown.csv": MARKDOWN,
    "psql.txt": " params | tokens | loss\n--------+--------+------\n" + text(" | ").partition("\n")[2] + "(9 rows)\n",
    "records.json": json.dumps(RECORDS),
    "lines.jsonl": "\n".join(map(json.dumps, RECORDS)),
    "lines.json": "\n".join(map(json.dumps, RECORDS)),
    "split.json": FRAME.to_json(orient="split", double_precision=15),
    "split_of_names.json": FRAME.set_axis(list("abcdefghi")).to_json(orient="split", double_precision=15),
    "columns.json": FRAME.to_json(orient="columns", double_precision=15),
    "index.json": FRAME.to_json(orient="index", double_precision=15),
    "orient_table.json": FRAME.to_json(orient="table", double_precision=15),
    "lists.json": json.dumps(FRAME.to_dict("list")),
    "values.json": json.dumps([NAMES, *ROWS]),
    "by_name.json": json.dumps({f"run-{i}": record for i, record in enumerate(RECORDS)}),
    "under_key.json": json.dumps({"version": 2, "runs": RECORDS}),
    "packed.csv.gz": gzip.compress(PLAIN.encode()),
    "packed.json.bz2": bz2.compress(json.dumps(RECORDS).encode()),
    "packed.tsv.xz": lzma.compress(text("\t").encode()),
    "packed.csv.zst": pa.compress(PLAIN.encode(), "zstd", asbytes=True),
}
REFUSED = {
    "more.csv": (PLAIN.replace("3.8364", "3.8364,7"), "line 3 has 4 values, and the header (params tokens loss) 3"),
    "fewer.csv": (PLAIN.replace(",3.8364", ""), "line 3 has 2 values, and the header (params tokens loss) 3"),
    "more.txt": (text("  ").replace("3.8364", "3.8364  7"), "line 3 has 4 values"),
    "more_after_blank.csv": ("# x\n\n" + PLAIN.replace("3.8364", "3.8364,7"), "line 5 has 4 values"),
    "more_quoted.csv": ('"params","tokens","loss"\n"1","2","3"\n"1","2","3","4"\n', "line 3 has 4 values"),
    "names_unnamed.csv": (numbered(lambda i, *row: f"{i},{row[0]},{row[1]},{row[2]}", ",".join(NAMES)), "line 2 has 4"),
    "decimal_commas.csv": (text(write=comma), "has 4 values"),
    "twice.csv": (PLAIN.replace("tokens", "loss"), "two columns are called 'loss'; rename one"),
    "twice_quoted.csv": ('"loss", "loss "\n1,2\n', "two columns are called 'loss'; rename one"),
    "units.csv": (
        PLAIN.replace("loss\n", "loss\n,(B),nats\n"),
        "the first line under the header holds words ((B), nats)",
    ),
    "no_header.csv": (PLAIN.partition("\n")[2], "its first line holds numbers (20000000, 2000000000, 3.89627)"),
    "title.csv": ("Runs of May\n" + PLAIN, "line 2 has 3 values, and the header (Runs of May) 1"),
    "open_quote.csv": (PLAIN.replace("800000000", '"800000000', 1), 'line 3: a quote (") does not close'),
    "marks.csv": ("params;loss\n20.000;3,5\n30.000;3,12\n", "points that may be either"),
    "all_comments.csv": ("run,params,loss\n#1,2,3\n#2,4,5\n", "every line under the header begins with #"),
    "empty.csv": ("", "is empty"),
    "blank.csv": ("\n , \n", "is empty"),
    "binary.csv": (b"params,loss\n1,\0\n", "is no text; save it as CSV"),
    "runs.pkl": (b"\x80\x04", "cannot read '.pkl' files; give one of .csv"),
    "damaged.csv.gz": (gzip.compress(PLAIN.encode())[:40], "cannot be unpacked"),
    "damaged.xlsx": (b"PK\x03\x04nothing", "is no workbook that can be read"),
    "twice.json": ('[{"loss": 1, "loss": 2}]', "'loss' stands twice in a record; keep one"),
    "twice_nested.json": ('[{"config": {"lr": 1}, "config.lr": 2}]', "'config.lr' stands twice in a record"),
    "broken.jsonl": ('{"a": 1}\n{"a": \n{"a": 3}\n', "is no JSON: line 4, column 1"),
    "two_tables.json": (json.dumps({"small": RECORDS, "large": RECORDS}), "holds 2 tables (small, large); keep one"),
    "ragged.json": ('{"params": [1, 2], "loss": [3]}', "its columns differ in length (params: 2, loss: 1)"),
    "ragged_split.json": ('{"columns": ["a", "b"], "data": [[1, 2], [3]]}', "row 2 has 1 values"),
    "number.json": ("3", "holds no table"),
    "none.json": ("[]", "should hold records"),
    "lm_eval.json": (
        '{"results": {"arc": {"acc": 0.3}}, "versions": {"arc": 1}}',
        "is what lm-eval measured of a model",
    ),
    "console.log": ("{'loss': 2.3, 'grad_norm': 1.0, 'epoch': 0.1}\n", "without steps; give trainer_state.json"),
}


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


def check(table):
    for name in NAMES:
        assert list(table[name]) == list(FRAME[name]), name
    assert list(table.index) == list(range(len(ROWS)))


@pytest.mark.parametrize("name", READ)
def test_the_reference_comes_back(tmp_path, name):
    check(read(tmp_path, name, READ[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_or_it_is_refused_in_one_line(tmp_path, name):
    content, says = REFUSED[name]
    with pytest.raises(InputError) as error:
        read(tmp_path, name, content)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("trailing.csv", "separators at the ends of rows are left out"),
        ("comments.csv", "10 lines that begin with # are left out"),
        ("savetxt.txt", "columns are named as in the comment"),
        ("decimal_commas.csv", "commas are read as decimal points"),
        ("european.csv", "commas are read as decimal points, points as marks of thousands"),
        ("latin1.csv", "is read as Latin-1"),
        ("r_table.txt", "the first value of each row, which the header does not name"),
        ("markdown.md", "2 lines around the table are left out"),
        ("under_key.json", "its rows are the records under 'runs'"),
    ],
)
def test_what_is_guessed_is_said(tmp_path, name, note):
    assert any(note in said for said in read(tmp_path, name, READ[name]).attrs["notes"])
    assert read(tmp_path, "plain.csv", PLAIN).attrs["notes"] == ()


def test_spreadsheets(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["nothing here"])
    sheet = book.create_sheet("runs")
    for row in (["Runs of May"], [], list(NAMES), *ROWS):
        sheet.append(row)
    book.create_sheet("more").append(["a", "b"])
    book["more"].append([1, 2])
    book.save(tmp_path / "runs.xlsx")
    table = read_table(tmp_path / "runs.xlsx")
    check(table)
    assert table.attrs["notes"] == (
        "the sheet 'runs' is read; it has more, too",
        "1 rows above the table are left out, as titles",
    )


def test_standard_input_and_addresses(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PLAIN.encode())))
    check(read_table("-"))
    with pytest.raises(InputError, match="is an address; download it, and give the file"):
        read_table("https://example.org/runs.csv")


def test_text_that_is_no_plain_number_stays(tmp_path):
    table = read(tmp_path, "x.csv", 'run,params,tokens\n a b ,70B,"1,234,567"\nc,1.4T,"20,000"\n')
    assert table.to_dict("list") == {"run": ["a b", "c"], "params": ["70B", "1.4T"], "tokens": ["1,234,567", "20,000"]}
    assert list(read(tmp_path, "y.csv", "params;loss\n20,000;3,896\n")["loss"]) == ["3,896"], "it may be 3896"


def test_numbers_beyond_64_bits_and_no_numbers(tmp_path):
    for name, content in {
        "big.json": '[{"flops": 20000000000000000000, "loss": NaN}, {"flops": 3e22, "loss": 2}]',
        "big.csv": "flops,loss\n20000000000000000000,\n3e22,2\n",
    }.items():
        table = read(tmp_path, name, content)
        assert list(table["flops"]) == [2e19, 3e22]
        assert table["loss"].isna().tolist() == [True, False]


def test_long_files_of_json_lines_are_read_alike(tmp_path, monkeypatch):
    from nextscale.fit.table.formats import documents

    monkeypatch.setattr(documents, "_STRICT", 10)
    check(read(tmp_path, "lines.jsonl", READ["lines.jsonl"]))
    check(read(tmp_path, "records.json", READ["records.json"]))
    assert read(tmp_path, "big.jsonl", '{"a": 20000000000000000000}\n{"a": NaN}\n')["a"][0] == 2e19


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"name": "a", "config": {"lr": 0.1}, "summary": {"eval/loss": 3, "_step": 5}}]),
        json.dumps([{"name": "a", "config": '{"lr": 0.1}', "summary": '{"eval/loss": 3, "_step": 5}'}]),
        "name,config,summary\na,{'lr': 0.1},\"{'eval/loss': 3, '_step': 5}\"\n",
        'name,config,summary\na,"{""lr"": 0.1}","{""eval/loss"": 3, ""_step"": 5}"\n',
    ],
)
def test_mappings_in_cells_are_columns(tmp_path, content):
    table = read(tmp_path, "api.json" if content.startswith("[") else "api.csv", content)
    assert table.to_dict("records") == [{"name": "a", "config.lr": 0.1, "summary.eval/loss": 3, "summary._step": 5}]


def test_of_python_mappings_nan_is_missing(tmp_path):
    table = read(tmp_path, "api.csv", "summary\n\"{'loss': nan, 'nan_steps': 2}\"\n\"{'loss': 2.5, 'nan_steps': 0}\"\n")
    assert table["summary.loss"].isna().tolist() == [True, False]
    assert list(table["summary.nan_steps"]) == [2, 0]


MEGATRON = (
    " [2024-04-04 09:10:13] iteration       10/    5000 | consumed samples:     5120 | consumed tokens:   20971520 | "
    "elapsed time per iteration (ms): 25849.1 | throughput per GPU (TFLOP/s/GPU): 26.8 | learning rate: 3.000E-04 | "
    "global batch size:   512 | lm loss: 2.3E+00 | loss scale: 1.0 | number of nan iterations:   0 | TFLOPs: 38.61 |\n"
    "-----\n"
    " validation loss at iteration 10 | lm loss value: 2.4E+00 | lm loss PPL: 1.1E+01 |\n"
    " validation loss at iteration 10 on test set | lm loss value: 2.5E+00 |\n"
)
CURVES = {
    "trainer_state.json": (
        json.dumps(
            {
                "global_step": 200,
                "total_flos": 1.5e18,
                "num_input_tokens_seen": 4096,
                "log_history": [
                    {"loss": 3.1, "step": 100},
                    {"loss": 2.9, "step": 200},
                    {"eval_loss": 2.95, "step": 200},
                    {"train_loss": 3.0, "total_flos": 1.5e18, "step": 200},
                ],
            }
        ),
        {
            "run": "folder",
            "step": 200,
            "loss": 2.9,
            "eval_loss": 2.95,
            "total_flos": 1.5e18,
            "num_input_tokens_seen": 4096,
        },
    ),
    "nanogpt.log": (
        "number of parameters: 123.59M\ntokens per iteration will be: 491,520\n"
        "step 0: train loss 10.9, val loss 10.8\niter 0: loss 10.95, time 3000.12ms, mfu -100.00%\n"
        "step 2000: train loss 1.7, val loss 1.8\niter 2000: loss 1.75, time 120.00ms, mfu 30.1%\n",
        {"run": "nanogpt", "step": 2000, "params": "123.59M", "tokens": 983040000, "val loss": 1.8, "loss": 1.75},
    ),
    "nanochat.txt": (
        "Number of parameters: 560,988,160\nTotal batch size 524,288 => gradient accumulation steps: 1\n"
        "step 00100/21400 (0.47%) | loss: 6.090 | lrm: 1.00 | dt: 500.12ms | tok/sec: 1,048,576 | bf16_mfu: 47.5 | "
        "epoch: 1 pq: 0 rg: 4 | total time: 0.00m | eta: 10.0m\nStep 00250 | Validation bpb: 1.1\n"
        "Step 00250 | CORE metric: 0.2\n",
        {"step": 250, "tokens": 131072000, "Validation bpb": 1.1, "CORE metric": 0.2},
    ),
    "megatron.out": (
        MEGATRON,
        {
            "step": 10,
            "consumed tokens": 20971520,
            "lm loss": 2.3,
            "val lm loss": 2.4,
            "val lm loss on test set": 2.5,
            "TFLOPs per second": 38.61,
        },
    ),
    "torchtitan": (
        "[rank0]:2024-01-01 10:00:00,123 - root - INFO - "
        "\x1b[31mstep: 10  \x1b[32mloss:  8.1234  \x1b[38mgrad_norm:  1.2  "
        "\x1b[33mmemory: 10.00GiB(12.34%)  \x1b[34mtps: 1,234  \x1b[36mtflops: 12.3  \x1b[35mmfu: 3.21%\x1b[39m\n"
        "[rank0]: - INFO - validate step: 10  loss:  8.2  memory: 1.0GiB(1%)  tps: 12\n",
        {"step": 10, "loss": 8.1234, "tps": 1234, "val loss": 8.2, "tflops per second": 12.3},
    ),
    "llmc.log": (
        "step    1/19560 | loss 11.0 (+nanz)| norm 15.1 (+nanz)| lr 8.57e-07 | 3056.36 ms | 171543 tok/s\n",
        {"step": 1, "loss": 11.0, "lr": 8.57e-07},
    ),
    "modded.log": (
        "step:125/5100 val_loss:5.1 train_time:12ms step_avg:1.2ms\n",
        {"step": 125, "val_loss": 5.1, "train_time (ms)": 12},
    ),
    "olmo.log": (
        "2024 olmo.train INFO [step=1/739328,epoch=0]\n    optim/grad_norm=1.2\n    train/CrossEntropyLoss=11.3\n",
        {"step": 1, "train/CrossEntropyLoss": 11.3},
    ),
    "levanter.jsonl": (
        '{"tracker": "json_logger", "event": "hparams", "hparams": {"model": {"hidden": 64}}}\n'
        '{"tracker": "json_logger", "event": "log", "step": 3, "metrics": {"train/loss": 2.5, "total_gflops": 9}}\n',
        {"run": "levanter", "step": 3, "train/loss": 2.5, "total_gflops": 9, "hparams.model.hidden": 64},
    ),
    "metrics.csv": (
        "epoch,step,train_loss,val_loss\n0,10,3,\n0,10,,3.1\n0,20,2,\n0,20,,2.2\n",
        {"run": "folder", "step": 20, "train_loss": 2, "val_loss": 2.2},
    ),
    "metrics.jsonl": ('{"_step": 1, "loss": 3}\n{"_step": 2, "loss": 2}\n', {"run": "folder", "step": 2, "loss": 2}),
    "history.log": ("step 1: loss 3.0\nstep 1: loss 2.5\n", {"run": "folder", "step": 1, "loss": 2.5}),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_one_run(tmp_path, name):
    content, last = CURVES[name]
    (tmp_path / "folder").mkdir()
    table = read(tmp_path / "folder", name, content)
    assert list(table)[:2] == ["run", "step"]
    assert table.attrs["curve"] == "step"
    assert {key: table.iloc[-1][key] for key in last} == last
    assert table.attrs["notes"]


def test_a_loss_that_is_no_number_is_kept_as_none(tmp_path):
    assert read(tmp_path, "x.log", "step 1: loss 3.0\nstep 2: loss nan\n")["loss"].isna().tolist() == [False, True]


CHART = (
    '"Step","a - eval/loss","a - eval/loss__MIN","a - eval/loss__MAX","Group: b - x - eval/loss"\n1,5,5,5,6\n2,4,4,4,\n'
)


def test_a_chart_of_weights_and_biases_is_curves(tmp_path):
    table = read(tmp_path, "chart.csv", CHART)
    assert table.to_dict("list") == {"run": ["a", "a", "b - x"], "step": [1, 2, 1], "eval/loss": [5, 4, 6]}
    assert "a chart of Weights & Biases, a curve a run" in table.attrs["notes"][0]
    assert "Step" in read_table(tmp_path / "chart.csv", kind="csv"), "not where it is said to be a table"
    assert list(read(tmp_path, "table.csv", "run,A - params,A - loss\nx,1,2\n")) == ["run", "A - params", "A - loss"]


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_is_written_no_number_changes(tmp_path, data):
    """The same numbers, or one line; of separators, marks, order, ends, encodings, blank and comment lines, and ends
    of rows at will."""
    draw = data.draw
    names = draw(st.permutations([*NAMES, *draw(st.sampled_from([[], ["note"], ["run"], ["run", "note"]]))]))
    separator = draw(st.sampled_from([",", ";", "\t", "|", " ", "   "]))
    decimal = draw(st.sampled_from([".", ","]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    words = st.sampled_from(["a", "b c", "1,5", "x;y", "it's", "#3", 'in "quotes"', "3.5", ""])
    rows = []
    for record in RECORDS:
        values = {key: str(value).replace(".", decimal) for key, value in record.items()}
        values |= {key: draw(words) for key in names if key not in NAMES}
        rows.append([values[name] for name in names])
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator[0], quoting=quoting, quotechar=draw(st.sampled_from(['"', "'"])))
    writer.writerow(names)
    writer.writerows(rows)
    lines = [line.replace(" ", separator) if len(separator) > 1 else line for line in out.getvalue().splitlines()]
    end = draw(st.sampled_from(["", separator, separator * 2]))
    lines = [lines[0] + draw(st.sampled_from(["", end])), *(line + end for line in lines[1:])]
    for _ in range(draw(st.integers(0, 3))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", "  ", "# said", "#", separator * 3])))
    if draw(st.booleans()) and draw(st.booleans()):
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = draw(
            st.sampled_from([lines[at] + separator + "7", lines[at].rpartition(separator)[0], lines[at][1:]])
        )
        broken = True
    else:
        broken = False
    whole = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    content = whole.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])))
    try:
        table = read(tmp_path, draw(st.sampled_from(["x.csv", "x.txt", "x"])), content)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert broken or set(NAMES) <= {*table}
    assert broken or len(table) == len(ROWS) or any("begin" in note for note in table.attrs["notes"])
    for name in {*NAMES} & {*table}:
        known = {str(value): value for value in FRAME[name]}
        read_back = [known.get(str(value).replace(",", "."), value) for value in table[name].dropna()]
        wrong = [value for value in read_back if value not in known.values()]
        assert len(wrong) <= broken, whole
        if not wrong and len(table) == len(ROWS):
            assert read_back == list(FRAME[name]), whole
