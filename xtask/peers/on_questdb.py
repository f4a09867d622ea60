"""What peers take for the work of a QuestDB's client, in milliseconds.

Arguments: the ports of the PostgreSQL wire and of HTTP. The first line of the output is the peers'
names and versions; then each line of the input names a piece of work and each line of the output is
its number, so that whoever asks can let others do the same in turn. The tables are those of
`crates/qmtl-io-questdb/benches/questdb.rs`. The Python original of this system is not on PyPI; where
QMTL_ORIGINAL names a checkout of it, its backend works on a table of its own kind.
"""

import asyncio
import base64
import http.client
import io
import os
import sys
import time
import urllib.parse

import connectorx
import numpy
import pandas
import psycopg
import pyarrow.parquet
import questdb
from questdb import Sender

PG, HTTP = sys.argv[1:3]
DSN = f"postgresql://admin:quest@127.0.0.1:{PG}/qdb"
MILLION, DAY = 1_000_000, 1_440
FIRST = 1_577_836_800_000_000
COLUMNS = ["open", "high", "low", "close", "volume"]
ORIGINAL = os.environ.get("QMTL_ORIGINAL")
KIND = "timestamp(ts) partition by month wal dedup upsert keys(ts, node_id, interval)"


def select(first, end):
    """The bars of a range as our own reads name them."""
    start, stop = (FIRST + bar * 60_000_000 for bar in (first, end))
    return (
        f"select ts, {', '.join(COLUMNS)} from bench_million where node_id = 'million' and interval = 60 "
        f"and ts >= {start}::timestamp and ts < {stop}::timestamp order by ts"
    )


def frame():
    bar = numpy.arange(MILLION)
    factors = [7_919, 104_729, 1_299_709, 15_485_863, 32_452_843]
    columns = {name: (bar * factor % 1_000_003) / 100 for name, factor in zip(COLUMNS, factors)}
    ts = numpy.datetime64(FIRST, "us") + bar * numpy.timedelta64(60_000_000, "us")
    return pandas.DataFrame(
        {"ts": ts, "node_id": pandas.Categorical(["million"] * MILLION), "interval": 60, **columns}
    )


wire = psycopg.connect(DSN, autocommit=True)
rows = frame()


def timed(work):
    started = time.perf_counter()
    done = work()
    return (time.perf_counter() - started) * 1e3, done


def run(sql):
    with wire.cursor() as cursor:
        return cursor.execute(sql).fetchone() if sql.startswith("select") else cursor.execute(sql) and None


def store(table):
    """The official client's data frame, until a query sees all of it."""
    payload = "".join(f", {name} double" for name in COLUMNS)
    run(f"create table {table} (ts timestamp, node_id symbol capacity 256, interval long{payload}) {KIND}")

    def send():
        with Sender.from_conf(f"http::addr=127.0.0.1:{HTTP};username=admin;password=quest;") as sender:
            sender.dataframe(rows, table_name=table, symbols=["node_id"], at="ts")
        run(f"select wait_wal_table('{table}')")
        return run(f"select count() from {table}")[0]

    ms, count = timed(send)
    assert count == MILLION, count
    return ms


def with_pyarrow(first, end):
    """The server's Parquet export of the same statement."""
    query = {"query": select(first, end), "fmt": "parquet", "compression_codec": "uncompressed"}
    login = base64.b64encode(b"admin:quest").decode()

    def read():
        connection = http.client.HTTPConnection("127.0.0.1", int(HTTP))
        connection.request("GET", f"/exp?{urllib.parse.urlencode(query)}", headers={"Authorization": f"Basic {login}"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (answer.status, body[:200])
        return pyarrow.parquet.read_table(io.BytesIO(body)).num_rows

    return read


def with_connectorx(first, end):
    url = DSN.replace("postgresql", "redshift")
    return lambda: connectorx.read_sql(url, select(first, end), return_type="arrow").num_rows


def with_psycopg(first, end):
    def read():
        with wire.cursor(binary=True) as cursor:
            return len(cursor.execute(select(first, end)).fetchall())

    return read


def read(reader, work):
    first, end = {"read": (0, MILLION), "day": (500_000, 500_000 + DAY)}[work]
    ms, count = timed(reader(first, end))
    assert count == end - first, count
    return ms


class Original:
    """The Python original on a table of integer seconds, which is all that it can use. It fills nothing:
    reading a range without rows, which it does first, is an error."""

    def __init__(self):
        sys.path.insert(0, ORIGINAL)
        from qmtl.runtime.io.historyprovider import QuestDBBackend

        self.make = lambda table: QuestDBBackend(DSN, table=table)

    def table(self, name, source):
        run(f"create table {name} (ts long, node_id string, interval int{''.join(f', {c} double' for c in COLUMNS)})")
        if source:
            run(
                f"insert into {name} select ts::long / 1000000, node_id::string, interval::int, "
                f"{', '.join(COLUMNS)} from bench_{source}"
            )
        return self.make(name)

    def prepare(self):
        self.million = self.table("bench_original_million", "million")
        self.gaps = self.table("bench_original_gaps", "gaps")
        self.written = self.table("bench_original_written", None)
        return 0.0

    def read(self):
        first = FIRST // 1_000_000
        work = self.million.read_range(first, first + MILLION * 60, node_id="million", interval=60)
        ms, frame = timed(lambda: asyncio.run(work))
        assert len(frame) == MILLION, frame
        return ms

    def coverage(self):
        ms, ranges = timed(lambda: asyncio.run(self.gaps.coverage(node_id="gaps", interval=60)))
        assert len(ranges) == 1_000, len(ranges)
        return ms

    def write(self):
        """Milliseconds for a million rows, as five thousand of them go."""
        import polars

        some = rows[:5_000]
        frame = polars.DataFrame({"ts": some["ts"].astype("int64") // 1_000_000, **{c: some[c] for c in COLUMNS}})
        work = self.written.write_rows(frame, node_id="million", interval=60)
        return timed(lambda: asyncio.run(work))[0] * MILLION / len(some)


versions = [f"questdb={questdb.__version__}", f"pyarrow={pyarrow.__version__}", f"psycopg={psycopg.__version__}"]
print(*versions, f"connectorx={connectorx.__version__}", f"original={'yes' if ORIGINAL else 'no'}", flush=True)
original = Original() if ORIGINAL else None
readers = {"pyarrow": with_pyarrow, "connectorx": with_connectorx, "psycopg": with_psycopg}
for line in sys.stdin:
    who, work, *more = line.split()
    if who == "questdb":
        number = store(*more)
    elif who == "original":
        number = getattr(original, work)()
    else:
        number = read(readers[who], work)
    print(f"{number:.4f}", flush=True)
