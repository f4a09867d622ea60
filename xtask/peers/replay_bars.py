"""Node events per second at which peers drive moving averages over 20 bars through their engines.

NautilusTrader: a strategy with two averages on one instrument's bars, two node events a bar. The
Python original of this system is not on PyPI; where QMTL_ORIGINAL names a checkout of it, its
pipeline of one input and two nodes is measured too.
"""

import os
import sys
import time

BARS, WINDOW, START = 100_000, 20, 1_600_000_020


def price(row):
    return 100.0 + row * 7 % 1_000 / 10.0


def nautilus():
    import nautilus_trader
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig
    from nautilus_trader.indicators import SimpleMovingAverage
    from nautilus_trader.model.currencies import USD
    from nautilus_trader.model.data import Bar, BarType
    from nautilus_trader.model.enums import AccountType, OmsType
    from nautilus_trader.model.identifiers import Venue
    from nautilus_trader.model.objects import Money, Price, Quantity
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.trading.strategy import Strategy

    instrument = TestInstrumentProvider.equity("SIM", "XNAS")
    bar_type = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    volume = Quantity.from_int(1_000)

    class Averages(Strategy):
        def on_start(self):
            self.results = 0
            self.averages = [SimpleMovingAverage(WINDOW), SimpleMovingAverage(WINDOW)]
            for average in self.averages:
                self.register_indicator_for_bars(bar_type, average)
            self.subscribe_bars(bar_type)

        def on_bar(self, bar):
            self.results += sum(average.value > 0 for average in self.averages)

    def bar(row):
        close, ts = Price(price(row), 2), (START + row * 60) * 1_000_000_000
        return Bar(bar_type, close, close, close, close, volume, ts, ts)

    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(Venue("XNAS"), OmsType.NETTING, AccountType.CASH, [Money(1_000_000, USD)], USD)
    engine.add_instrument(instrument)
    engine.add_data([bar(row) for row in range(BARS)])
    strategy = Averages()
    engine.add_strategy(strategy)
    start = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - start
    assert strategy.results >= 2 * (BARS - WINDOW), strategy.results
    print(f"NautilusTrader {nautilus_trader.__version__} {2 * BARS / seconds / 1e6:.4f}")


def original(checkout):
    sys.path.insert(0, checkout)
    from qmtl.runtime.pipeline.pipeline import Pipeline
    from qmtl.runtime.sdk import Node, StreamInput

    bars, results = 5_000, 0

    def average(view):
        nonlocal results
        results += 1
        closes = [row["close"] for _, row in view[stream][60]]
        return sum(closes) / len(closes)

    stream = StreamInput(interval="60s", period=WINDOW)
    nodes = [Node(input=stream, compute_fn=average, name=name, interval="60s", period=WINDOW) for name in "ab"]
    pipeline = Pipeline([stream, *nodes])
    start = time.perf_counter()
    for row in range(bars):
        pipeline.feed(stream, START + row * 60, {"close": price(row)})
    seconds = time.perf_counter() - start
    assert results >= 2 * (bars - WINDOW), results
    print(f"the Python original {2 * bars / seconds / 1e6:.4f}")


nautilus()
if checkout := os.environ.get("QMTL_ORIGINAL"):
    try:
        original(checkout)
    except ImportError as error:
        print(f"without the Python original: {error}; install it for {sys.executable}", file=sys.stderr)
else:
    print("the Python original is not on PyPI; QMTL_ORIGINAL may name a checkout", file=sys.stderr)
