"""The cost of branches, before training: parameters, FLOPs, and how much longer a training step takes."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from .attach import attach_branches, empty_model
from .probe import Probe, skeleton
from .supervised import DeeplySupervised

# A training step is modelled as three forward passes (the backward pass costs two) plus the parameter update. One FLOP
# takes one unit of time, one byte of memory traffic FLOPS_A_BYTE units. Both constants were fitted to measurements of
# sixteen pairs of network and design on CPUs, see docs/cost.md.
FLOPS_A_BYTE = 10
BYTES_A_PARAMETER = 120


@dataclass(frozen=True)
class Part:
    """The cost of one forward pass of the backbone or of one branch.

    Attributes:
        name: 'backbone', or the tap's module name.
        num_params: Parameters.
        flops: FLOPs per image, 2 per multiply-add, as `torch.utils.flop_counter` counts them.
        traffic: Bytes read and written by all operations for one image, in float32.
    """

    name: str
    num_params: int
    flops: int
    traffic: float


@dataclass(frozen=True)
class Cost:
    """The cost of a network with branches.

    Attributes:
        backbone: What remains at inference.
        branches: Shallow to deep.
        design: The name of their design, None without branches.
        input_size: (C, H, W) of the images.
        batch_size: Images per step, for `step_ratio`.
    """

    backbone: Part
    branches: tuple[Part, ...]
    design: str | None
    input_size: tuple[int, int, int]
    batch_size: int

    @property
    def num_params(self) -> int:
        """Parameters in training."""
        return sum(part.num_params for part in (self.backbone, *self.branches))

    @property
    def flops(self) -> int:
        """FLOPs of one image in training, forward pass."""
        return sum(part.flops for part in (self.backbone, *self.branches))

    @property
    def step_ratio(self) -> float:
        """Predicted time of a training step with branches, as a multiple of one without."""
        return self.work / self.step_work(self.backbone)

    @property
    def work(self) -> float:
        """Time of a training step with branches, in FLOPs."""
        return sum(self.step_work(part) for part in (self.backbone, *self.branches))

    def step_work(self, part: Part) -> float:
        """Time of a training step spent in `part`, in FLOPs."""
        passes = 3 * self.batch_size * (part.flops + FLOPS_A_BYTE * part.traffic)
        return passes + FLOPS_A_BYTE * BYTES_A_PARAMETER * part.num_params

    def lines(self) -> list[str]:
        """The table that `dkszoo cost` and every training log show."""
        size = 'x'.join(map(str, self.input_size))
        rows = [(self.backbone.name, self.backbone), *((f'branch at {part.name}', part) for part in self.branches)]
        width = max(len(name) for name, _ in rows)
        lines = [f'cost of one {size} image' + (f', branches {self.design}:' if self.branches else ':')]
        lines += [f'  {name:{width}} {part.num_params:13,} parameters {part.flops:17,} FLOPs' for name, part in rows]
        if self.branches:
            lines += [
                f'  {"training":{width}} {self.num_params:13,} parameters {self.flops:17,} FLOPs',
                f'  a training step of {self.batch_size} images takes about {self.step_ratio:.2f} times as long as one '
                'without branches; inference takes the backbone alone',
            ]
        return lines


def cost(
    model: str | nn.Module,
    design: str | dict | None = 'auto',
    taps=None,
    img_size: int | None = None,
    batch_size: int = 64,
    **model_kwargs,
) -> Cost:
    """The cost of a network and its branches. Nothing is computed: everything is counted on the meta device.

    Args:
        model: A name known to timm (importing dkszoo makes ours known), a classifier, or a `DeeplySupervised`, whose
            branches are then counted and `design` and `taps` ignored; it is not changed.
        design: As for `attach_branches`; None or 'none': no branches.
        taps: As for `attach_branches`.
        img_size: Side of the images; default: what the network was made for. Branches do not depend on it.
        batch_size: Images per training step.
        **model_kwargs: As for `timm.create_model`, if `model` is a name.

    Raises:
        ValueError: Unknown name, design or tap; or the network does not take such images or cannot run without values.
        TypeError: `model_kwargs` given with a network instead of a name.
    """
    if batch_size < 1 or (img_size is not None and img_size < 1):
        raise ValueError(f'batch_size and img_size must be at least 1, got {batch_size} and {img_size}')
    if model_kwargs and not isinstance(model, str):
        raise TypeError(f'cost() takes {", ".join(model_kwargs)} only with the name of a model')
    net = skeleton(empty_model(model, **model_kwargs) if isinstance(model, str) else model)
    if not isinstance(net, DeeplySupervised):
        net = DeeplySupervised(net) if design in (None, 'none') else attach_branches(net, design, taps)
    net.eval()
    plain, probe = DeeplySupervised(net.backbone), Probe(net.backbone, img_size)
    chans, *size = probe.record.input_size
    input_size = (chans, *(size if img_size is None else (img_size, img_size)))
    dtype = next(net.parameters()).dtype
    image = torch.empty(batch_size, *input_size, device='meta', dtype=dtype)
    try:
        backbone, (_, maps) = measure(
            'backbone', net.backbone, lambda: plain.forward_stages(image, net.taps), batch_size
        )
    except Exception as error:  # a foreign forward can raise anything
        side = 'x'.join(map(str, input_size))
        raise ValueError(f'{type(net.backbone).__name__} does not take {side} images ({error})') from error
    names = [probe.info[tap]['module'] for tap in net.taps]
    branches = [
        measure(name, branch, lambda branch=branch, tap=tap: branch(tap), batch_size)[0]
        for name, branch, tap in zip(names, net.branches, maps, strict=True)
    ]
    name = net.design.get('name', 'custom') if isinstance(net.design, dict) else net.design
    return Cost(backbone, tuple(branches), name, input_size, batch_size)


@torch.no_grad()
def measure(name: str, module: nn.Module, run, batch_size: int) -> tuple[Part, object]:
    """Count the cost per image of `run`, a pass over a batch; returns the part and the result of `run`."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        result = run()
    num_params = sum(p.numel() for p in module.parameters())
    return Part(name, num_params, flops.get_total_flops() // batch_size, traffic.total / batch_size), result


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views are free."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view:
            tensors = [v for v in tree_flatten((args, kwargs, result))[0] if isinstance(v, torch.Tensor)]
            self.total += 4 * sum(t.numel() for t in tensors)
        return result
