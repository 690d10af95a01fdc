from pathlib import Path

from benchmarks import real_sizes


def test_other_processes_read_the_coreset_that_the_first_one_made(tmp_path: Path) -> None:
    real_sizes.make(tmp_path / "experts", 60_000, 2, 3)
    first = real_sizes.apart(tmp_path / "experts")
    (coreset,) = (tmp_path / "experts").rglob("*.coreset")
    written = coreset.stat().st_mtime_ns
    other = real_sizes.apart(tmp_path / "experts")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "experts").rglob("*.coreset")] == [written]
    assert first["error"] == other["error"]
    assert "| other |" in real_sizes.markdown({"first": first, "other": other})
