"""`dkszoo export`."""

from dkszoo import deploy

from .main import Parser, fail
from .train import print_card


def main(argv: list[str]) -> int:
    """Export a checkpoint."""
    parser = Parser(prog='dkszoo export', description='Strip the branches of a checkpoint, verify and write it.')
    add = parser.add_argument
    add('checkpoint', metavar='CHECKPOINT', help='a training checkpoint (model_best.pth.tar)')
    add(
        'out',
        metavar='OUT',
        nargs='?',
        help='the file to write: OUT.safetensors, OUT.onnx or OUT.pt2 (torch.export), with a .json beside it',
    )
    add('--hub-dir', metavar='DIR', help="a new folder in timm's hub layout, which timm loads as local-dir:DIR")
    add('--license', metavar='ID', help='licence of the weights, for DIR (default apache-2.0)')
    add('--no-ema', action='store_true', help='take the raw weights, not the averaged ones')
    args = parser.parse_args(argv)
    if not args.out and not args.hub_dir:
        raise ValueError('nothing to write (give OUT.safetensors, OUT.onnx, OUT.pt2 or --hub-dir DIR)')
    if args.license and not args.hub_dir:
        raise ValueError('--license is for the model card of a hub folder (add --hub-dir DIR, or leave it out)')
    for path, check in ((args.out, deploy.check_target), (args.hub_dir, deploy.check_folder)):
        if path:
            check(path)
    try:
        if args.out:
            print_card(args.out, deploy.export(args.checkpoint, args.out, ema=not args.no_ema))
        if args.hub_dir:
            license = args.license or 'apache-2.0'
            card = deploy.export_hub(args.checkpoint, args.hub_dir, ema=not args.no_ema, license=license)
            print_card(args.hub_dir, card)
    except deploy.VerificationFailed as error:
        return fail(error, 1)
    return 0
