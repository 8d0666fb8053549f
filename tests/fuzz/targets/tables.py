"""CSV and TSV tables of ``attendrite pack``."""

from __future__ import annotations

from pathlib import Path

from attendrite.recordings._tables import read_stimulus, read_unit_columns

TABLES = {
    "series.csv": 'time,x [px],"y [px]"\n0,1,2\n0.5,,nan\n\n1.5,1e3,-4\n',
    "times.tsv": "times\tv\n0\t1\n1\t2\n",
    "trials.csv": 'start,stop,side,n\n0,1,left,1\n1,2.5,"a, ""b""",2\n',
    "units.csv": "unit,area,depth\na,M1,1\nb,ü,2.5\n",
}


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    return [folder / name for name in TABLES]


def read(path: Path) -> None:
    if path.read_bytes().startswith(b"unit"):
        read_unit_columns(path, ["a", "b"])
    else:
        read_stimulus(path)
