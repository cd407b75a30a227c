"""The command `fcn`. Errors are one line on stderr and exit status 2; a traceback is a bug."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import fastconv
from fastconv import DeviceError
from fcn import models, native, onnx
from fcn._errors import reason
from fcn.graph import Model
from fcn.loading import SUFFIXES, load

__all__ = ["find_model", "main"]

MODEL_HELP = (
    f"{' or '.join(models.PRETRAINED)} (shipped), the path of a model file "
    "(.npz, .keras, .h5, .onnx), or an architecture with its classes and options and seeded random "
    "weights, such as two_conv:21, fcn8s:21:caffe or unet:21:width=16:depth=3; architectures: "
    f"{', '.join(models.ARCHITECTURES)}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failed check, 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("fcn: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, MemoryError, DeviceError) as error:
        _complain(error)
        return 2


def find_model(text: str, seed: int = 0) -> Model:
    """The model that a command line names.

    Parameters
    ----------
    text : str
        A shipped name, a path that ends in one of `SUFFIXES`, or a text for
        `fcn.models.architecture`.
    seed : int
        Of the random weights, for an architecture.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if text in models.PRETRAINED:
        return models.pretrained(text)
    if text.endswith(SUFFIXES):
        return load(text)
    if text.partition(":")[0] not in models.ARCHITECTURES or ":" not in text:
        raise ValueError(f"model {text!r} is not known; give {MODEL_HELP}")
    graph = models.architecture(text)
    return Model(graph, models.initialise(graph, seed), {"seed": seed})


def _verify(args: argparse.Namespace) -> int:
    from fcn import images, parity, peers
    from fcn.session import Session

    model = find_model(args.model, args.seed)
    session = Session(model, num_threads=args.threads)
    channels = model.graph.channels
    file = peers.of_file(args.model, model)
    if args.image is None:
        n, *fixed = (None, None, None) if file is None else file.shape[:3]
        h, w = args.size or (side or 256 for side in fixed)
        x = np.random.default_rng(args.seed).random((n or 1, h, w, channels), np.float32)
    else:
        pixels = images.read(args.image, channels=channels if channels in (1, 3) else None)
        x = session.prepare(images.resize(pixels, *args.size) if args.size else pixels)
    reports = [parity.verify(model, x, session)]
    if file is not None:
        reports.append(parity.verify(model, x, session, file))
    print("\n\n".join(map(str, reports)))
    if args.html:
        from fcn import export, verify_page

        export.write_whole(args.html, verify_page.render(reports))
    return 0 if all(report.passed for report in reports) else 1


def _segment(args: argparse.Namespace) -> int:
    from fcn import export, images
    from fcn.session import Session

    photos = [Path(photo) for photo in args.photos]
    _refuse_equal_names(photos)
    model = find_model(args.model)
    session = Session(model, num_threads=args.threads, device=args.device)
    channels = model.graph.channels if model.graph.channels in (1, 3) else None
    folder = export.make_folder(args.out)
    failed = 0
    for photo in _progress(photos, "segment"):
        try:
            image = images.read(photo, channels=channels)
            labels, planes = session.segment(image, memory=args.memory, planes=args.planes)
            mask = folder / f"{photo.stem}_mask.png"
            export.save_mask(labels, mask)
            export.save_png(export.overlay(image, labels), folder / f"{photo.stem}_overlay.png")
            for name, plane in planes.items():
                export.save_array(plane, folder / f"{photo.stem}_{name}.npy")
        except (ValueError, OSError) as error:  # the other photos may be fine
            _complain(error)
            failed += 1
            continue
        print(f"{photo}: {_shares(labels, model)} -> {mask}")
    return 2 if failed else 0


def _train(args: argparse.Namespace) -> int:
    from fcn import train

    out = args.out or f"digits_{args.name}.npz"
    options = ("seed", "minutes", "scenes", "batch", "rate")
    given = {key: value for key in options if (value := getattr(args, key)) is not None}
    model = train.train(args.name, out, **given)
    print(f"{out}: validation IoU {max(model.meta.get('validation_iou', [0.0])):.4f}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from fcn import demo

    count = demo.SCENES if args.scenes is None else args.scenes
    results = demo.run(args.out, count=count, progress=_progress)
    print(f"{count} held-out scenes of digits that training never saw\n")
    print("\n".join(demo.table(results)))
    print(f"\npictures: {Path(args.out) / 'contact_sheet.png'} and beside it")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from fcn.forecast import describe
    from fcn.session import Session

    model, (h, w) = find_model(args.model), args.size or (512, 512)
    session = Session(model, num_threads=args.threads)
    print(f"{model.graph.name}, input 1 x {h} x {w} x {model.graph.channels}")
    print(describe(session, (1, h, w, model.graph.channels)))
    return 0


def _profile(args: argparse.Namespace) -> int:
    from fcn import export
    from fcn.session import Session

    model, size = find_model(args.model), args.size or (512, 512)
    session = Session(model, num_threads=args.threads)
    shape = (*size, model.graph.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    measured = session.profile(image, args.runs)
    print(measured)
    if args.html:
        export.write_whole(args.html, measured.html())
    return 0


def _convert(args: argparse.Namespace) -> int:
    writers = {".npz": native.save, ".onnx": onnx.save}
    if (suffix := Path(args.target).suffix) not in writers:
        raise ValueError(
            f"convert: {args.target} must end in .npz, the format of our model files, or in .onnx"
        )
    model = load(args.source, args.output, args.architecture)
    writers[suffix](model, args.target)
    count = model.graph.parameter_count
    print(f"{args.target}: {len(model.graph.nodes)} layers, {count:,} parameters")
    return 0


def _info(args: argparse.Namespace) -> int:
    model = find_model(args.model)
    graph, (h, w) = model.graph, args.size or (256, 256)
    shapes = graph.shapes(*((1, h, w, channels) for channels in graph.inputs.values()))
    print(f"{graph.name}: {graph.parameter_count:,} parameters, total stride {graph.total_stride}")
    given = " and ".join(f"{h} x {w} x {channels}" for channels in graph.inputs.values())
    rows = [("node", "op", "reads", f"shape for {given}")]
    for node in graph.nodes:
        shape = " x ".join(map(str, shapes[node.name][1:]))
        rows.append((node.name, node.op, ", ".join(node.inputs), shape))
    name, op, reads = (max(map(len, column)) + 2 for column in list(zip(*rows, strict=True))[:3])
    for row in rows:
        print(f"{row[0]:<{name}}{row[1]:<{op}}{row[2]:<{reads}}{row[3]}")
    for key, value in model.meta.items():
        print(f"{key}: {_short(value)}")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    fastconv.show_config()
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fcn", description="Fully convolutional networks for semantic segmentation."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    verify = command(
        "verify", _verify, "Compare with TensorFlow, layer by layer and end to end, and a Keras or "
        "ONNX file also with Keras or ONNX Runtime, which then read that file.",
    )  # fmt: skip
    verify.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    verify.add_argument("image", metavar="IMAGE", nargs="?", help="PNG or JPEG; default: noise")
    verify.add_argument("--size", type=_size, metavar="HxW", help="input size (noise: 256x256)")
    verify.add_argument("--html", metavar="FILE", help="write the report as a page, with pictures")
    verify.add_argument("--seed", type=int, default=0, help="of random weights and noise")
    segment = command("segment", _segment, "Write the mask and an overlay of each photo.")
    segment.add_argument("photos", metavar="PHOTO", nargs="+", help="PNG or JPEG files")
    segment.add_argument("--model", default=models.PRETRAINED[0], help=MODEL_HELP)
    segment.add_argument("--memory", metavar="SIZE", help="such as 2GB: bands where it takes more")
    segment.add_argument(
        "--planes", type=_planes, default=(), metavar="NAMES",
        help="write .npy files of margin, probability, entropy (those that are named)",
    )  # fmt: skip
    segment.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    segment.add_argument("--out", default="segmented", metavar="DIR", help="folder for the masks")
    train = command("train", _train, "Train a digit model in TensorFlow, with a progress bar.")
    train.add_argument(
        "name", metavar="NAME", choices=("two_conv", "fcn8s"), help="fcn8s or two_conv"
    )
    train.add_argument("--out", metavar="FILE", help="model file (default: digits_NAME.npz)")
    for name, kind, text in (
        ("seed", int, "of the initial weights and the order of scenes"),
        ("minutes", float, "how long"),
        ("scenes", int, "training scenes of an epoch"),
        ("batch", int, "scenes per step"),
        ("rate", float, "highest learning rate"),
    ):
        train.add_argument(f"--{name}", type=kind, help=text)
    demo = command("demo", _demo, "Segment held-out scenes of handwriting and print the figures.")
    demo.add_argument("--out", default="demo", metavar="DIR", help="folder for the pictures")
    demo.add_argument("--scenes", type=int, metavar="N", help="scenes to measure")
    plan = command("plan", _plan, "Tell time and memory of a run before it, step by step.")
    plan.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    plan.add_argument("--size", type=_size, metavar="HxW", help="input size (default: 512x512)")
    profile = command("profile", _profile, "Measure a segmentation of noise, step by step.")
    profile.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    profile.add_argument("--size", type=_size, metavar="HxW", help="input size (default: 512x512)")
    profile.add_argument("--runs", type=int, default=5, metavar="N", help="runs (default: 5)")
    profile.add_argument("--html", metavar="FILE", help="write a page with a picture, too")
    for each in (verify, segment, plan, profile):
        each.add_argument("--threads", type=int, metavar="N", help="threads (default: all)")
    convert = command("convert", _convert, "Write a model as our own file, or as ONNX.")
    convert.add_argument(
        "source", metavar="IN", help=".npz, .keras, .h5, .onnx, .weights.h5 or .safetensors file"
    )
    convert.add_argument("target", metavar="OUT", help=".npz or .onnx file")
    convert.add_argument("--output", metavar="NAME", help="which of several outputs")
    convert.add_argument(
        "--architecture", metavar="NAME", help="of weights alone, such as fcn_resnet50:21"
    )
    info = command("info", _info, "Show the layers of a model and how it was made.")
    info.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    info.add_argument("--size", type=_size, metavar="HxW", help="input size for the shapes")
    command("doctor", _doctor, "Tell what was found: versions, CPU, threads, kernels and GPU.")
    return parser


def _size(text: str) -> tuple[int, int]:
    h, _, w = text.lower().partition("x")
    if not (h.isdecimal() and w.isdecimal() and int(h) and int(w)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it as 512x512")
    return int(h), int(w)


def _planes(text: str) -> tuple[str, ...]:
    from fcn.scores import check_planes

    try:
        return check_planes(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _refuse_equal_names(photos: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for photo in photos:
        if photo.stem in seen:
            raise ValueError(
                f"segment: {seen[photo.stem]} and {photo} would both write {photo.stem}_mask.png; "
                "segment them into different folders with --out"
            )
        seen[photo.stem] = photo


def _shares(labels: np.ndarray[Any, Any], model: Model) -> str:
    """The classes in a mask with their share of its pixels, largest first."""
    names = model.meta.get("classes", [])
    counts = np.bincount(labels.ravel())
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    parts = [
        f"{names[k] if k < len(names) else f'class {k}'} {counts[k] / labels.size:.1%}"
        for k in order
    ]
    return ", ".join(parts)


def _progress(items: Sequence[Any], caption: str) -> Iterator[Any]:
    """The items; while they are consumed, a line on stderr counts them if a person watches."""
    watched = sys.stderr.isatty() and len(items) > 1
    for done, item in enumerate(items):
        if watched:
            print(f"\r{caption} {done + 1}/{len(items)}", end="", file=sys.stderr, flush=True)
        yield item
    if watched:
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 76 else text[:73] + "..."


def _complain(error: BaseException) -> None:
    print(f"fcn: {reason(error)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
