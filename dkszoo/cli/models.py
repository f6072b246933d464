"""`dkszoo models`."""

import csv
import sys
from collections.abc import Iterator

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dkszoo
from dkszoo.branches import empty_model

from .main import Parser

COLUMNS = ('name', 'num_params', 'macs', 'input_size', 'designs', 'tags')


def main(argv: list[str]) -> int:
    """List dkszoo's models."""
    parser = Parser(prog='dkszoo models', description="dkszoo's own models. Nothing is computed, so it takes seconds.")
    add = parser.add_argument
    add('filter', nargs='?', default='', metavar='FILTER', help='part of a name, or a pattern with * and ?')
    add('--csv', action='store_true', help='comma-separated values, numbers without marks')
    args = parser.parse_args(argv)
    pattern = args.filter if set(args.filter) & set('*?[') else f'*{args.filter}*'
    names = dkszoo.list_models(pattern)
    if not names:
        hint = 'dkszoo models lists all'
        if timm.is_model(args.filter):
            hint = f"dkszoo cost {args.filter} has the figures of timm's"
        raise ValueError(f'no model of dkszoo fits {args.filter!r} ({hint})')
    if args.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows(names))
        return 0
    width = max(map(len, names))
    print(f'{"name":{width}} {"parameters":>11} {"MACs":>14} {"input":>9}  branch designs; pretrained tags')
    for row in rows(names):
        designs = row['designs'].replace(' ', ', ') + (f'; {row["tags"].replace(" ", ", ")}' if row['tags'] else '')
        print(
            f'{row["name"]:{width}} {row["num_params"]:11,} {row["macs"]:14,} {row["input_size"]:>9}  {designs}',
            flush=True,
        )
    return 0


def rows(names: list[str]) -> Iterator[dict]:
    """One dict with `COLUMNS` per model; designs and tags are separated by spaces."""
    for name in names:
        model = empty_model(name)
        yield {
            'name': name,
            **sizes(model),
            'designs': ' '.join(dkszoo.list_designs(model)),
            'tags': ' '.join(tagged.partition('.')[2] for tagged in timm.list_pretrained(f'{name}.*')),
        }


def sizes(model: nn.Module) -> dict:
    """Parameters, MACs (multiply-adds for one image, in convolutions and linear layers) and input size of a model."""
    input_size = model.pretrained_cfg['input_size']
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, *input_size, device='meta'))
    return {
        'num_params': sum(p.numel() for p in model.parameters()),
        'macs': counter.get_total_flops() // 2,
        'input_size': 'x'.join(map(str, input_size)),
    }
