"""What is merged piece by piece says what `prometheus_client` makes of all files at once, whatever happens between."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from monitoring.allocated import AllocatedDict
from monitoring.merged import MergedFiles

NAMES = (
    "counter_a",
    "counter_b",
    "counter_archive",
    "histogram_a",
    "histogram_b",
    "gauge_livesum_a",
    "gauge_livemax_b",
    "gauge_livemin_b",
)
TEAMS = ("red", 'a "quoted"\\\nname')
BOUNDS = ("0.5", "2.0", "+Inf")


def keys(kind: str, mode: str, team: str, number: int) -> list[str]:
    """Of the series that one observation writes to. number: which metric of the kind."""
    name = f"{'other' if number == 0 else 'starcoder'}_{kind}_{mode}{number}"
    documentation = 'What it "means" \\ says.\nMore.'
    if kind == "counter":
        return [mmap_key(name, f"{name}_total", ["model", "team"], ["m", team], documentation)]
    if kind == "gauge":
        return [mmap_key(name, name, ["model", "team"], ["m", team], documentation)]
    labels = (["model", "team", "le"], ["model", "team"])
    buckets = [mmap_key(name, f"{name}_bucket", labels[0], ["m", team, bound], documentation) for bound in BOUNDS]
    return [mmap_key(name, f"{name}_sum", labels[1], ["m", team], documentation), *buckets]


class Shown:
    """A collector of what the library makes of the files."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [str(file) for file in files]

    def collect(self) -> list[Metric]:
        merged = MultiProcessCollector.merge(self._files)
        return [family for family in merged if family.name.startswith("starcoder_")]


def expected(files: list[Path]) -> str:
    registry = CollectorRegistry()
    registry.register(Shown(files))
    return generate_latest(registry).decode()


def parsed(text: str) -> dict[object, object]:
    families = text_string_to_metric_families(text)
    return {
        (family.name, family.type, family.documentation): {
            (sample.name, frozenset(sample.labels.items())): sample.value for sample in family.samples
        }
        for family in families
    }


def write(file: Path, values: dict[str, float]) -> None:
    stored = AllocatedDict(str(file))
    for key, value in values.items():
        stored.write_value(key, value, 0.0)
    stored.close()


steps = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["write", "write", "write", "write", "remove"]),
        st.sampled_from(TEAMS),
        st.sampled_from([1, 1, 1, 0]),
        st.lists(st.integers(0, 9).map(float), min_size=4, max_size=4),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=25, deadline=None)
@given(steps)
def test_it_says_what_the_library_says(steps: list[tuple[str, str, str, int, list[float]]]) -> None:
    merged = MergedFiles("starcoder_")
    with tempfile.TemporaryDirectory() as directory:
        for name, what, team, number, values in steps:
            file = Path(directory) / f"{name}.db"
            kind, mode = name.split("_")[:2]
            if what == "remove" or mode == "archive":  # which is always replaced
                file.unlink(missing_ok=True)
            if what != "remove":
                mode = mode if kind == "gauge" else ""
                write(file, dict(zip(keys(kind, mode, team, number), values, strict=False)))
            files = sorted(Path(directory).glob("*.db"))
            merged.read(files)
            assert parsed(merged.text()) == parsed(expected(files))
            assert sorted(merged.text().splitlines()) == sorted(expected(files).splitlines())


@pytest.mark.parametrize("unfinished", [b"", bytes(1 << 16)], ids=["made", "sized"])
def test_a_file_whose_process_is_about_to_begin_says_nothing_and_hides_nothing(
    tmp_path: Path, unfinished: bytes
) -> None:
    (counter,), (gauge,) = keys("counter", "", "red", 1), keys("gauge", "livemax", "red", 1)
    write(tmp_path / "counter_a.db", {counter: 2.0})
    names = ("counter_b.db", "gauge_livemax_b.db", "histogram_b.db")
    for name in names:
        (tmp_path / name).write_bytes(unfinished)
    files = [tmp_path / "counter_a.db", *(tmp_path / name for name in names)]
    merged = MergedFiles("starcoder_")

    def values() -> list[str]:
        merged.read(files)
        return [line.rpartition(" ")[2] for line in merged.text().splitlines() if line[0] != "#"]

    assert values() == ["2.0"]
    write(tmp_path / "counter_b.db", {counter: 3.0})
    assert values() == ["5.0"]
    write(tmp_path / "gauge_livemax_b.db", {gauge: 7.0})
    assert values() == ["5.0", "7.0"]


def test_documentation_that_changed_makes_no_second_series(tmp_path: Path) -> None:
    """As in an archive that an older release left."""
    for number, documentation in enumerate(("As it was.", "As it is.")):
        key = mmap_key("starcoder_x", "starcoder_x_total", ["model"], ["m"], documentation)
        write(tmp_path / f"counter_{number}.db", {key: 2.0})
    merged = MergedFiles("starcoder_")
    merged.read(sorted(tmp_path.glob("*.db")))
    assert [line for line in merged.text().splitlines() if line[0] != "#"] == ['starcoder_x_total{model="m"} 4.0']


@pytest.fixture
def counted_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many numbers were written since it was last asked."""
    numbers: list[float] = []

    def written(number: float) -> str:
        numbers.append(number)
        return repr(number)

    def count() -> int:
        found = len(numbers)
        numbers.clear()
        return found

    monkeypatch.setattr("monitoring.merged.floatToGoString", written)
    return count


def test_only_what_changed_is_written_anew(tmp_path: Path, counted_lines: Callable[[], int]) -> None:
    files = [tmp_path / f"counter_{process}.db" for process in range(20)]
    values = {keys("counter", "", f"team {team}", 1)[0]: 1.0 for team in range(100)}
    for file in files:
        write(file, values)
    merged = MergedFiles("starcoder_")
    merged.read(files)
    assert "20.0" in merged.text()
    assert counted_lines() == 100
    merged.read(files)
    merged.text()
    assert counted_lines() == 0
    write(files[7], {next(iter(values)): 5.0})
    merged.read(files)
    assert 'team="team 0"} 24.0' in merged.text()
    assert counted_lines() == 1
