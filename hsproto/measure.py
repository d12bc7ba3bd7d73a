"""Measure the features of any network: how close to Neural Collapse are they?

  hsproto measure FILE.npz [--out=DIR]

FILE is an npz with features [N, D] and labels [N] and, if there are, prototypes [K, D] (the rows of
the last layer), bias [K], class_names [K], test_features and test_labels. Several files, npy files
named so (features.npy, labels.npy; features_0.npy, features_1.npy are joined) and folders of them
will do too. They are read block by block, so they may be larger than memory.

Prints a table of all measures beside their values at collapse, and a verdict in words. OUT gets
index.html, measure.json, cosines.png, spectrum.png and map.png.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["measure", *sys.argv[1:]])

import base64
import os
import pathlib

from hsproto.evaluation import measure as measure_lib
from hsproto.reporting.figures import features as figures
from hsproto.reporting.figures import style
from hsproto.reporting.page import single
from hsproto.runs.files import to_json, write_text


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto measure")
    parser.add_argument(
        "files", type=cli.local_path, nargs="+", metavar="FILE", help="npz, npy, or a folder"
    )
    parser.add_argument(
        "--out", type=cli.local_path, metavar="DIR", help="folder for a page, pictures and JSON"
    )
    args = parser.parse_args(argv)
    if args.out is not None:
        cli.make_output_folder(args.out)
    report = measure_lib.measure(args.files)
    print(measure_lib.format_report(report))
    if args.out is not None:
        print(_write(report, args.out))
    return 0


def _write(report, out):
    """Write pictures, measure.json and index.html; return the path of the page."""
    train = report.train
    counted = train.means[train.counts > 0]
    pictures = {
        "Cosines": ("cosines.png", figures.cosines_figure(
            train.means, report.prototypes, report.class_names
        )),
        "Map": ("map.png", figures.map_figure(
            report.points, report.point_labels, train.means, report.class_names
        )),
        "Spectra": ("spectrum.png", figures.spectrum_figure(counted, train.within)),
    }  # fmt: skip
    drawn = []
    for title, (name, figure) in pictures.items():
        path = os.path.join(out, name)
        style.save(figure, [path])
        drawn.append((title, base64.b64encode(pathlib.Path(path).read_bytes()).decode()))
    write_text(os.path.join(out, "measure.json"), to_json(measure_lib.content(report), indent=1))
    rows = [(key, text, measure_lib.cells(v)) for key, text, v in measure_lib.table(report)]
    page = single.render(
        "measure.html", name=report.name, verdict=measure_lib.verdict(report), notes=report.notes,
        pictures=drawn, columns=measure_lib.columns(report), rows=rows,
    )  # fmt: skip
    path = os.path.join(out, "index.html")
    write_text(path, page)
    return path
