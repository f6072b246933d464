"""`dkszoo cost`: what branches cost, before training."""

import torch

from dkszoo.branches import cost
from dkszoo.engine import create_model
from dkszoo.engine.create import WRONG_ARGUMENTS, read_design
from dkszoo.engine.ranges import check_range

from .flags import KeyValues, Listing, reader
from .main import Parser


def main(argv: list[str]) -> int:
    """Print parameters, FLOPs and the predicted step time; counted on the meta device, so it takes seconds."""
    parser = Parser(prog='dkszoo cost', description='What a model and its branches cost, before training.')
    add = parser.add_argument
    add('model', metavar='MODEL', help='a dkszoo or timm name')
    add(
        '--branches',
        default='auto',
        metavar='NAME_OR_FILE',
        help="branch design, a YAML or JSON file with a custom one, or 'none' (default auto)",
    )
    add(
        '--taps',
        nargs='+',
        action=Listing,
        type=reader([tuple]),
        metavar='T',
        help="where branches leave: feature indices or module names (default: the design's)",
    )
    add('--img-size', type=int, metavar='N', help="side of the images (default: the model's)")
    add(
        '--batch',
        '--batch-size',
        '-b',
        dest='batch_size',
        type=int,
        default=64,
        metavar='N',
        help='images per training step (default 64)',
    )
    add('--num-classes', type=int, metavar='N', help="classes (default: the model's)")
    add('--in-chans', type=int, metavar='N', help="image channels (default: the model's)")
    add('--model-kwargs', nargs='+', default={}, action=KeyValues, metavar='KEY=VALUE', help='further model arguments')
    args = parser.parse_args(argv)
    for name in ('img_size', 'batch_size', 'num_classes', 'in_chans'):
        check_range(name, getattr(args, name))
    if args.taps and args.branches == 'none':
        raise ValueError('--taps without branches (leave one of them out)')
    given = {name: getattr(args, name) for name in ('num_classes', 'in_chans') if getattr(args, name) is not None}
    try:
        with torch.device('meta'):
            model = create_model(args.model, **given, **args.model_kwargs)
    except WRONG_ARGUMENTS as error:
        raise ValueError(f'cannot make model {args.model!r}: {error}') from error
    print('\n'.join(cost(model, read_design(args.branches), args.taps, args.img_size, args.batch_size).lines()))
    return 0
