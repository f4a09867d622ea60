"""Writes TA-Lib's values over the candles of a CSV file to another one: a row for each bar, `nan` where there is none.

Arguments: the candles, and the table to write.
"""

import sys

import numpy
import talib


def main(candles, table):
    rows = numpy.genfromtxt(candles, delimiter=",", names=True)
    high, low, close = (numpy.ascontiguousarray(rows[name]) for name in ("high", "low", "close"))
    macd, signal, histogram = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    columns = {
        "sma": talib.SMA(close, timeperiod=20),
        "ema": talib.EMA(close, timeperiod=20),
        "rsi": talib.RSI(close, timeperiod=14),
        "atr": talib.ATR(high, low, close, timeperiod=14),
        "macd": macd,
        "signal": signal,
        "histogram": histogram,
    }
    with open(table, "w", encoding="ascii") as out:
        print("ts", *columns, sep=",", file=out)
        for row, opened in enumerate(rows["open_time"]):
            # The shortest text that reads back as the same double.
            print(int(opened) // 1000, *(repr(float(column[row])) for column in columns.values()), sep=",", file=out)


main(sys.argv[1], sys.argv[2])
