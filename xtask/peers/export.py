"""Reads what `qmtl-history export --for ...` wrote with the programs that it is for, and compares every number.

Prints a way of reading and the number of its bars on each line; versions go to stderr.
"""

import gzip
import io
import json
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import backtrader
import pandas
from backtesting import Backtest, Strategy
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType

FOLDER = Path(sys.argv[1])
COLUMNS = ["open", "high", "low", "close", "volume"]
# Parsers that are exact by default since; before, they round the last bit.
EXACT = {} if tuple(map(int, pandas.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}

for package in ["pandas", "pyarrow", "backtesting", "backtrader", "freqtrade"]:
    print(package, version(package), file=sys.stderr)

# What the store holds, by the plain export.
stored = pandas.read_parquet(FOLDER / "plain.parquet")


def naive(times):
    return pandas.Series(pandas.DatetimeIndex(times).tz_localize(None).astype("datetime64[us]")).to_numpy()


def equal(name, times, frame, columns=COLUMNS, expected=stored["ts"], tolerance=0.0):
    """Fails unless times and numbers are those of the store, bit for bit where there is no tolerance."""
    assert len(frame) == len(stored) > 0, f"{name}: {len(frame)} rows"
    assert (naive(times) == naive(expected)).all(), f"{name}: times differ"
    for ours, theirs in zip(COLUMNS, columns):
        left, right = (x.to_numpy(dtype="float64") for x in (stored[ours], frame[theirs]))
        same = left.view("int64") == right.view("int64")
        assert (same | (abs(left - right) < tolerance * abs(left))).all(), f"{name}: {ours} differs"
    print(f"{name} {len(frame)}")


def spaced(seconds):
    return pandas.to_datetime(1_704_067_200 + pandas.RangeIndex(len(stored)) * seconds, unit="s")


equal("pandas, Parquet as it is", stored["ts"], stored)
for kind, frame in [
    ("csv", pandas.read_csv(FOLDER / "pandas.csv", index_col="ts", parse_dates=["ts"], **EXACT)),
    ("csv.gz", pandas.read_csv(FOLDER / "pandas.csv.gz", index_col=0, parse_dates=True, **EXACT)),
    ("csv.zst", pandas.read_csv(FOLDER / "pandas.csv.zst", index_col=0, parse_dates=True, **EXACT)),
    ("parquet", pandas.read_parquet(FOLDER / "pandas.parquet")),
    ("feather", pandas.read_feather(FOLDER / "pandas.feather")),
]:
    assert isinstance(frame.index, pandas.DatetimeIndex) and frame.index.name == "ts", kind
    equal(f"pandas, {kind},", frame.index, frame)
with open(FOLDER / "pandas.json") as file:
    frame = pandas.DataFrame(json.load(file))
equal("pandas, json,", pandas.to_datetime(frame["ts"]), frame)
with gzip.open(FOLDER / "pandas.jsonl.gz", "rt") as file:
    frame = pandas.DataFrame([json.loads(line) for line in file])
equal("pandas, jsonl.gz,", pandas.to_datetime(frame["ts"]), frame)

frame = pandas.read_csv(FOLDER / "backtesting.csv", index_col=0, parse_dates=True, **EXACT)


class Idle(Strategy):
    """Trades nothing."""

    def init(self):
        pass

    def next(self):
        pass


assert Backtest(frame, Idle, cash=1e9).run()["Start"] == stored["ts"].iloc[0].tz_localize(None)
equal("backtesting.py", frame.index, frame, [name.capitalize() for name in COLUMNS])


class Recorder(backtrader.Strategy):
    """Writes down what it is given."""

    rows = []

    def next(self):
        data = self.data
        row = [line[0] for line in (data.open, data.high, data.low, data.close, data.volume)]
        Recorder.rows.append([data.datetime.datetime(0), *row])


cerebro = backtrader.Cerebro(stdstats=False)
cerebro.addstrategy(Recorder)
path = str(FOLDER / "backtrader.csv")
feed = backtrader.feeds.GenericCSVData(dataname=path, timeframe=backtrader.TimeFrame.Minutes, compression=5)
cerebro.adddata(feed)
cerebro.run()
frame = pandas.DataFrame(Recorder.rows, columns=["ts", *COLUMNS])
# Its times are days in a double, which are microseconds off.
equal("backtrader", frame["ts"].dt.round("ms"), frame)

for kind in ["feather", "json", "jsongz", "parquet"]:
    handler = get_datahandler(FOLDER, kind)
    frame = handler.ohlcv_load("ADA/BTC", "5m", CandleType.SPOT, fill_missing=False, drop_incomplete=False)
    assert list(frame.columns) == ["date", *COLUMNS], frame.columns
    # freqtrade reads JSON with pandas.read_json, which rounds the last bit of some numbers.
    equal(f"freqtrade, {kind},", frame["date"], frame, tolerance=1e-14 if kind.startswith("json") else 0.0)


def lines_of(path, entry):
    """The one file of a zip, as LEAN's reader takes it: digits, without a header."""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [entry] and archive.testzip() is None, path
        text = archive.read(entry).decode()
    assert not set(text) - set("0123456789.-,: \n"), path
    return pandas.read_csv(io.StringIO(text), header=None, names=["ts", *COLUMNS], **EXACT)


frame = lines_of(FOLDER / "lean-hour" / "adabtc_trade.zip", "adabtc.csv")
equal("rules of LEAN, hours,", pandas.to_datetime(frame["ts"], format="%Y%m%d %H:%M"), frame, expected=spaced(3600))
days = []
for path in sorted((FOLDER / "lean-minute" / "adabtc").iterdir()):
    date = path.name.removesuffix("_trade.zip")
    day = lines_of(path, f"{date}_adabtc_minute_trade.csv")
    day["ts"] = pandas.to_datetime(date) + pandas.to_timedelta(day["ts"], unit="ms")
    days.append(day)
frame = pandas.concat(days, ignore_index=True)
equal("rules of LEAN, minutes,", frame["ts"], frame, expected=spaced(60))
