"""Reads the files listed in `files.txt` with polars and DuckDB and compares with `export.parquet`.

Argument: the folder. Each line is a reader and the number of rows that agree, all columns bit for bit."""

import os
import sys

import duckdb
import polars
import pyarrow.parquet

os.chdir(sys.argv[1])
files = open("files.txt").read().splitlines()
expected = pyarrow.parquet.read_table("export.parquet").to_pydict()


def rows(table):
    table = table.select(list(expected)).sort_by("ts").to_pydict()
    for column, values in expected.items():
        assert table[column] == values, f"{column} differs"
    return len(table["ts"])


print(f"polars {polars.__version__} {rows(polars.scan_parquet(files).collect().to_arrow())}")
with_duckdb = duckdb.sql("set timezone = 'UTC'; select * from read_parquet($files)", params={"files": files})
print(f"DuckDB {duckdb.__version__} {rows(with_duckdb.arrow().read_all())}")
