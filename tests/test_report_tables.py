"""The table of features carries the report's values, the same ones in CSV and in Parquet."""

import numpy as np
import pandas as pd
import pytest
from report_written import planted

from husai.report import tables


@pytest.mark.parametrize("activations", [True, False])
def test_csv_and_parquet_carry_the_values_of_the_report_to_the_last_digit(tmp_path, activations):
    report = planted(activations=activations)
    paths = tables.write(report, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # no temporary file is left
    csv = pd.read_csv(paths[0], dtype=tables.KINDS)
    parquet = pd.read_parquet(paths[1])
    pd.testing.assert_frame_equal(csv, parquet, check_exact=True)
    assert list(csv) == list(tables.KINDS) and len(csv) == 120
    for key, column in report["features"].items():
        if tables.missing(column):
            assert parquet[key].isna().all()
        else:
            wanted = [np.nan if value is None else value for value in column]
            np.testing.assert_array_equal(parquet[key].to_numpy(dtype=float), np.array(wanted, dtype=float))


def test_every_latent_is_named_by_its_sae():
    table = tables.frame(planted(name="run {}, of two"))
    assert table["name"].tolist() == [f"run {index}, of two" for index in table["sae"]]


def test_every_column_of_the_schema_is_in_the_table_and_on_the_page():
    keys = set(planted()["features"])
    assert keys == set(tables.KINDS) - {"name"} == set(tables.TITLES)


def test_a_column_that_the_report_lacks_is_told_with_its_reason():
    absent = tables.absent(planted(activations=False))
    assert set(absent) == {"Firing rate", "Dead", "Replication probability"}
    assert set(absent.values()) == {"needs activations"}
    assert tables.absent(planted()) == {}


def test_cells_are_formatted_and_a_dead_latent_says_so():
    report = planted()
    columns = {column["key"]: column for column in tables.texts(report)}
    cells = columns["replication_probability"]["texts"].split(tables.SEPARATOR)
    assert [cell == "dead" for cell in cells] == report["features"]["dead"]
    assert set(columns["dead"]["texts"].split(tables.SEPARATOR)) == {"yes", "no"}
    assert [key for key, column in columns.items() if not column["number"]] == ["sae", "counted", "dead"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "features.csv"
    path.write_text("as it was")
    with pytest.raises(OSError, match="full"), tables.replaced(path) as temporary:
        temporary.write_text("half of it")
        raise OSError("the disk is full")
    assert path.read_text() == "as it was" and list(tmp_path.iterdir()) == [path]
