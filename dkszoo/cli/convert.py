"""`dkszoo convert`."""

from pathlib import Path

from timm.utils import setup_default_logging

from dkszoo import deploy
from dkszoo.engine.ranges import check_range

from .flags import KeyValues, Listing, reader
from .main import Parser, fail
from .train import print_card


def main(argv: list[str]) -> int:
    """Convert a checkpoint of any known format."""
    parser = Parser(
        prog='dkszoo convert',
        description='Write the network of a checkpoint in any known format (DKS, DHM, RepDistiller, SemCKD, '
        'mdistiller, HSAKD, pytorch-cifar, torchvision, timm, dkszoo) as an export, for validate.py and dkszoo.load.',
    )
    add = parser.add_argument
    add('checkpoint', metavar='IN', help='the file to read; its format is recognised')
    add('out', metavar='OUT', help='the file to write: OUT.safetensors, OUT.onnx or OUT.pt2, with a .json beside it')
    add('--model', metavar='NAME', help='the dkszoo or timm model it has to fit (default: the dkszoo model it fits)')
    add('--model-kwargs', nargs='+', default={}, action=KeyValues, metavar='KEY=VALUE', help='more model arguments')
    numbers = dict(nargs='+', action=Listing, type=reader([tuple[float, ...]]), metavar='X')
    add('--mean', **numbers, help="channel means it was trained with (default: the model's)")
    add('--std', **numbers, help='channel standard deviations it was trained with')
    add('--img-size', type=int, metavar='N', help="side of the images to evaluate at (default: the model's)")
    add('--crop-pct', type=float, metavar='X', help="fraction of the image the crop keeps (default: the model's)")
    add('--class-names', metavar='FILE', help='a text file with the name of each class, one a line')
    add('--no-ema', action='store_true', help='take the raw weights if the file also has averaged ones')
    args = parser.parse_args(argv)
    known = {name: getattr(args, name) for name in ('mean', 'std', 'img_size', 'crop_pct')}
    for name, value in known.items():
        check_range(name, value)
    if args.class_names is not None:
        known['class_names'] = read_names(args.class_names)
    setup_default_logging()
    try:
        card = deploy.convert_file(args.checkpoint, args.out, args.model, args.model_kwargs, not args.no_ema, **known)
    except deploy.VerificationFailed as error:
        return fail(error, 1)
    print_card(args.out, card)
    return 0


def read_names(path: str) -> list[str]:
    """The lines of a text file, without spaces around them and without the empty ones at its end.

    Raises:
        ValueError: It cannot be read as text.
    """
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'cannot read class names from {path!r}: {error} (give a UTF-8 text file)') from error
    return [line.strip() for line in text.rstrip().split('\n')]
