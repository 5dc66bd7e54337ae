"""Measured tables survive a round trip; anything else in their place asks for a new measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgetok import limits
from edgetok.control import BenchTable, Row, load_table, save_table
from edgetok.control.table import table_path
from edgetok.errors import ResourceError, UsageError
from edgetok.user_cache import CACHE_VARIABLE, cache_directory

DIGEST = "0123456789abcdef" * 4
TABLE = BenchTable(DIGEST, "cpu", (Row(64, 80.5, 91.0, 6.25, 210.0), Row(576, 300, 342, 6.5, 250)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_table_comes_back_as_it_was_saved(cache: Path) -> None:
    path = save_table(TABLE)
    assert path.is_relative_to(cache)
    assert load_table(DIGEST, "cpu") == TABLE
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


def test_saving_again_replaces(cache: Path) -> None:
    save_table(TABLE)
    newer = BenchTable(DIGEST, "cpu", TABLE.rows[:1])
    save_table(newer)
    assert load_table(DIGEST, "cpu") == newer


def test_rows_are_found_by_budget() -> None:
    assert TABLE.row(576) == TABLE.rows[1]
    assert TABLE.row(128) is None


def test_devices_have_tables_of_their_own_and_harmless_file_names(cache: Path) -> None:
    save_table(TABLE)
    odd = BenchTable(DIGEST, "../../cuda:0", TABLE.rows[:1])
    assert save_table(odd).parent == table_path(DIGEST, "cpu").parent
    assert load_table(DIGEST, "../../cuda:0") == odd
    assert load_table(DIGEST, "cpu") == TABLE


def test_an_unmeasured_bundle_asks_for_bench() -> None:
    with pytest.raises(UsageError, match="never measured on 'cpu'; run `edgetok bench BUNDLE`"):
        load_table(DIGEST, "cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"[" * 100_000,
        json.dumps({"bundle_digest": DIGEST, "device": "cpu", "rows": [], "extra": 1}).encode(),
        json.dumps({"bundle_digest": DIGEST, "device": "cpu"}).encode(),
        json.dumps({"bundle_digest": DIGEST, "device": "cpu", "rows": [{"budget": 1}]}).encode(),
        b" " * (limits.MANIFEST_BYTES + 1),
        b"\xff\xfe{}",
    ],
    ids=["empty", "text", "list", "deep", "unknown", "missing", "row", "large", "utf16"],
)
def test_an_unreadable_table_asks_for_bench(content: bytes) -> None:
    save_table(TABLE).write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read .*run `edgetok bench BUNDLE`"):
        load_table(DIGEST, "cpu")


@pytest.mark.parametrize(
    "field, value", [("ttft_ms_p95", -1), ("memory_mib", None), ("budget", 0), ("ttft_ms_p50", "9")]
)
def test_impossible_measurements_are_not_believed(field: str, value: object) -> None:
    path = save_table(TABLE)
    content = json.loads(path.read_bytes())
    content["rows"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="cannot be read"):
        load_table(DIGEST, "cpu")


def test_a_table_of_another_bundle_is_not_used() -> None:
    other = BenchTable("f" * 64, "cpu", TABLE.rows)
    table_path(DIGEST, "cpu").parent.mkdir(parents=True)
    save_table(other).rename(table_path(DIGEST, "cpu"))
    with pytest.raises(UsageError, match="of another bundle or device; run `edgetok bench"):
        load_table(DIGEST, "cpu")


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    with pytest.raises(ResourceError, match=f"set {CACHE_VARIABLE} to a directory"):
        save_table(TABLE)


def test_a_failed_write_leaves_the_old_table(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_table(TABLE)

    def explode(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", explode)
    with pytest.raises(ResourceError, match="No space left on device"):
        save_table(BenchTable(DIGEST, "cpu", ()))
    assert load_table(DIGEST, "cpu") == TABLE
    assert list(path.parent.iterdir()) == [path]


def test_the_cache_is_the_users_unless_given(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_directory() == cache
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert "edgetok" in cache_directory().parts
