"""`dkszoo export`."""

from dkszoo import deploy

from .main import Parser, fail
from .train import print_card


def main(argv: list[str]) -> int:
    """Export a checkpoint."""
    parser = Parser(prog='dkszoo export', description='Strip the branches of a checkpoint, verify and write it.')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='a training checkpoint (model_best.pth.tar)')
    parser.add_argument('out', metavar='OUT.safetensors', help='the file to write; OUT.json comes beside it')
    parser.add_argument('--no-ema', action='store_true', help='take the last weights, not the averaged ones')
    args = parser.parse_args(argv)
    try:
        card = deploy.export(args.checkpoint, args.out, ema=not args.no_ema)
    except deploy.VerificationFailed as error:
        return fail(error, 1)
    print_card(args.out, card)
    return 0
