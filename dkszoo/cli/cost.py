"""`dkszoo cost`: what branches cost, before training."""

from dkszoo.branches import cost, empty_model
from dkszoo.engine.create import check_name, read_design

from .flags import KeyValues
from .main import Parser


def main(argv: list[str]) -> int:
    """Print parameters, FLOPs and the predicted step time. Nothing is computed, so it takes seconds."""
    parser = Parser(prog='dkszoo cost', description='What a model and its branches cost, before training.')
    add = parser.add_argument
    add('model', metavar='MODEL', help='a dkszoo or timm name')
    add('--branches', default='auto', metavar='NAME_OR_FILE', help="design, a YAML file with one's own, or 'none'")
    add('--taps', nargs='+', metavar='T', help='where branches leave: feature indices or module names')
    add('--img-size', type=int, metavar='N', help="side of the images (default: the model's)")
    add('--batch', '-b', type=int, default=64, metavar='N', help='images a training step (default 64)')
    add('--num-classes', type=int, metavar='N', help="classes (default: the model's)")
    add('--in-chans', type=int, metavar='N', help="image channels (default: the model's)")
    add('--model-kwargs', nargs='+', default={}, action=KeyValues, metavar='KEY=VALUE', help='further model arguments')
    args = parser.parse_args(argv)
    check_name(args.model)
    taps = None if args.taps is None else [tap for text in args.taps for tap in text.split(',')]
    if taps and args.branches == 'none':
        raise ValueError('--taps without branches (leave one of them out)')
    given = {name: getattr(args, name) for name in ('num_classes', 'in_chans') if getattr(args, name) is not None}
    try:
        model = empty_model(args.model, **given, **args.model_kwargs)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f'cannot make model {args.model!r}: {error}') from error
    print('\n'.join(cost(model, read_design(args.branches), taps, args.img_size, args.batch).lines()))
    return 0
