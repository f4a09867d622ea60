"""Megabytes (10^6 bytes) per second at which peers read a million candles from CSV on one thread."""

import os
import random
import statistics
import tempfile
import time

os.environ["POLARS_MAX_THREADS"] = "1"

import pandas
import polars
import pyarrow.csv

ROWS, RUNS = 1_000_000, 5


def write(path):
    draw = random.Random(1).random
    price = 43210.55
    with open(path, "w") as file:
        file.write("open_time,open,high,low,close,volume\n")
        for row in range(ROWS):
            close = max(abs(price + draw() * 60 - 30), 100)
            high, low = max(price, close) + draw() * 9, min(price, close) - draw() * 9
            time_ms = 1_600_000_020_000 + row * 60_000
            file.write(f"{time_ms},{price:.2f},{high:.2f},{low:.2f},{close:.2f},{draw() * 500:.5f}\n")
            price = close


def seconds(read):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        assert len(read()) == ROWS
        times.append(time.perf_counter() - start)
    return statistics.median(times)


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "candles.csv")
    write(path)
    size = os.path.getsize(path) / 1e6
    one_thread = pyarrow.csv.ReadOptions(use_threads=False)
    peers = {
        f"pyarrow {pyarrow.__version__}": lambda: pyarrow.csv.read_csv(path, read_options=one_thread),
        f"pandas {pandas.__version__}": lambda: pandas.read_csv(path),
        f"polars {polars.__version__}": lambda: polars.read_csv(path),
    }
    for name, read in peers.items():
        print(f"{name} {size / seconds(read):.1f}")
