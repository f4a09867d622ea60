"""What peers take for the store's work, in milliseconds: pyarrow with the same codecs, ArcticDB on LMDB.

Argument: a folder on the disk to measure. Each line is `peer: work milliseconds`."""

import os
import shutil
import statistics
import sys
import tempfile
import time

import numpy
import pandas
import pyarrow
import pyarrow.parquet

BARS, RUNS = 1_000_000, 5


def bars():
    random = numpy.random.default_rng(1)
    close = numpy.round(42_000 + numpy.cumsum(20 * (random.random(BARS) - 0.5)), 2)
    open_ = numpy.roll(close, 1)
    high = numpy.round(numpy.maximum(open_, close) + 5 * random.random(BARS), 2)
    low = numpy.round(numpy.minimum(open_, close) - 5 * random.random(BARS), 2)
    volume = numpy.round(random.random(BARS) * 50, 3)
    start = numpy.datetime64("2020-01-01", "us")
    ts = start + numpy.arange(BARS) * numpy.timedelta64(60_000_000, "us")
    return ts, {"open": open_, "high": high, "low": low, "close": close, "volume": volume}


def median(work):
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def fsync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def with_pyarrow(folder, ts, columns):
    table = pyarrow.table({"ts": pyarrow.array(ts, pyarrow.timestamp("us", "UTC")), **columns})
    for name, codec in [("Lz4", "lz4"), ("Zstd", "zstd"), ("None", "none")]:
        path = os.path.join(folder, f"{name}.parquet")

        def write():
            # The same encodings as ours: deltas of times, plain numbers.
            encodings = {column: "PLAIN" for column in columns} | {"ts": "DELTA_BINARY_PACKED"}
            pyarrow.parquet.write_table(
                table, path, compression=codec, row_group_size=50_000, use_dictionary=False,
                column_encoding=encodings,
            )
            fsync(path)
            fsync(folder)

        def read():
            assert pyarrow.parquet.read_table(path).num_rows == BARS

        print(f"pyarrow {pyarrow.__version__}: {name}/write {median(write):.2f}")
        print(f"pyarrow {pyarrow.__version__}: {name}/read {median(read):.2f}")


def with_arctic(folder, ts, columns):
    import arcticdb

    frame = pandas.DataFrame(columns, index=pandas.DatetimeIndex(ts.astype("datetime64[ns]"), name="ts"))
    root = os.path.join(folder, "arctic")
    store = arcticdb.Arctic(f"lmdb://{root}?map_size=4GB")
    library = store.get_library("bars", create_if_missing=True)

    def write():
        library.write("x", frame, prune_previous_versions=True)
        for path, _, files in os.walk(root):
            for file in files:
                fsync(os.path.join(path, file))

    def read():
        assert len(library.read("x").data) == BARS

    day = (pandas.Timestamp("2021-03-04"), pandas.Timestamp("2021-03-04 23:59:59"))

    def one_day():
        assert len(library.read("x", date_range=day).data) == 1_440

    def coverage():
        # It has none: the index is read and its gaps are found.
        index = library.read("x", columns=[]).data.index.values.astype("int64")
        assert (numpy.diff(index) != 60_000_000_000).sum() == 0

    name = f"ArcticDB {arcticdb.__version__}"
    for work, label in [(write, "write"), (read, "read"), (one_day, "day"), (coverage, "coverage")]:
        print(f"{name}: {label} {median(work):.2f}")


with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    ts, columns = bars()
    with_pyarrow(folder, ts, columns)
    with_arctic(folder, ts, columns)
    shutil.rmtree(os.path.join(folder, "arctic"), ignore_errors=True)
