"""The training task: timm's contract, filled with the terms of a method."""

import logging
import reprlib

import torch
from timm.task import TrainingTask, resolve_classification_loss
from timm.utils import unwrap_model
from torch import nn

from dkszoo.branches import DeeplySupervised, classifiers

from .methods import get_method, warn_unread
from .pairing import example_batch, pair_stages
from .settings import make_settings
from .teacher import adopt_teacher
from .terms import TERMS, Context
from .trainable import TrainableModule

_logger = logging.getLogger(__name__)


class DeepSupervisionTask(TrainingTask):
    """Training with auxiliary branches by any method, for timm's training loop or your own.

    Args:
        model: A `DeeplySupervised`, or a plain classifier for the methods without branches.
        method: A name in `METHODS`, or a sum such as 'kd+ds'.
        criterion: Loss on labels, (logits [B, K], target) -> scalar; default timm's cross-entropy.
        teacher: For the methods that learn from one: a classifier with the same classes, which stays frozen and is in
            no state dict. Images are assumed to be normalised by the model's `pretrained_cfg`, and are normalised again
            for the teacher if its own differs; a `Teacher` specifies all that itself.
        device: Device of the task's tensors.
        dtype: Their data type.
        verbose: Log what the task does.
        **settings: Fields of `LossSettings`: alpha, beta, synergy, ...

    Raises:
        ValueError: Unknown method or setting, a setting out of its range, a model that is not a timm-style classifier,
            branches or a teacher that are missing or do not fit. (A setting that the method does not use only gives a
            warning.)
        TypeError: The teacher is not a module.

    Example:
        >>> net = dkszoo.create_model('cifar_resnet20', num_classes=10, branches='dks')
        >>> task = dkszoo.DeepSupervisionTask(net, method='dks')
        >>> task(images, labels)['loss'].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        method: str = 'dks',
        criterion: nn.Module | None = None,
        teacher: nn.Module | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
        **settings,
    ):
        net = as_net(model)
        super().__init__(device=device or next(net.parameters()).device, dtype=dtype, verbose=verbose)
        self.method = method
        spec, settings = get_method(method), make_settings(settings)
        needs_branches = spec.needs_branches(settings)
        if needs_branches and not net.branches:
            raise ValueError(f'method {method!r} needs branches (use attach_branches, or create_model(branches=...))')
        if spec.uses_teacher != (teacher is not None):
            raise ValueError(
                f'method {method!r} needs a teacher (pass teacher=, a trained classifier)'
                if spec.uses_teacher
                else f'method {method!r} has no use for a teacher (leave it out, or use {method}+kd)'
            )
        check_classes(net, criterion)
        if net.num_classes == 1 and (idle := [name for name in spec.terms if TERMS[name].uses_softmax]):
            _logger.warning('a softmax over one class is 1: %s will always be 0 (use two classes)', ', '.join(idle))
        warn_unread(spec, settings)
        teacher = None if teacher is None else adopt_teacher(teacher, net, verbose)
        object.__setattr__(self, 'teacher', teacher)  # no submodule: not in state_dict(), parameters() or train()
        kinds = [TERMS[name] for name in spec.terms]
        uses_stages = any(kind.uses_stages for kind in kinds)
        own_stages, self.teacher_stages = pair_stages(net.backbone, teacher.model) if uses_stages else ((), ())
        example = None
        if any(kind.uses_example for kind in kinds):
            example = example_batch(net, teacher, (own_stages, self.teacher_stages))
        criterion = resolve_classification_loss(criterion, self.device)
        if not callable(criterion) or isinstance(criterion, type) or hasattr(criterion, 'forward_features'):
            raise ValueError(f'criterion must be a loss (logits, target) -> scalar, got {reprlib.repr(criterion)}')
        weight = next(net.parameters())
        if isinstance(criterion, nn.Module):  # in the precision that logits are promoted to
            criterion.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        context, asked = Context(net, example), spec.resolve(settings)
        terms = {name: TERMS[name](context, own).to(weight.device, weight.dtype) for name, own in asked.items()}
        idle_branches = len(net.branches) > 0 and not needs_branches
        if idle_branches:
            _logger.warning('method %s reads no branch: the branches cost time and learn nothing', method)
        self.trainable_module = TrainableModule(net, terms, criterion, own_stages, idle_branches)

    def _apply(self, fn, *args, **kwargs):
        """Move the teacher too, on `.to(device)` and the like; its data type stays."""
        result = super()._apply(fn, *args, **kwargs)
        if self.teacher is not None:
            self.teacher.to(self.device)
        return result

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict:
        """Images [B, C, H, W] and labels -> {'loss', 'output' (main logits), one detached value per term}."""
        if self.teacher is None:
            return self.trainable_module(input, target)
        return self.trainable_module(input, target, self.teacher(input, self.teacher_stages))

    def set_progress(self, epoch: int, epochs: int) -> None:
        """Set the current epoch, from 0, and their number, before every epoch; schedules (alpha's) depend on it.

        Raises:
            ValueError: There is no such epoch.
        """
        if not 0 <= epoch < epochs:
            raise ValueError(f'there is no epoch {epoch} of {epochs} (they are counted from 0)')
        for term in self._trainable().terms.values():
            term.set_progress(epoch / epochs)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, for timm's optimizers."""
        exempt = self._trainable().no_weight_decay()
        return {name for name, plain in self._plain_names().items() if plain in exempt}

    def group_matcher(self, coarse: bool = False):
        """A function from a parameter's name to its layer, for timm's layer-wise learning rates."""
        matcher, names = self._trainable().group_matcher(coarse), self._plain_names()
        return lambda name: matcher(names.get(name, name))

    def _plain_names(self) -> dict[str, str]:
        """A parameter's name in the task -> its name in the unwrapped `TrainableModule`."""
        plain = {id(p): name for name, p in self._trainable().named_parameters()}
        return {name: plain[id(p)] for name, p in self.named_parameters() if id(p) in plain}

    def setup_ema(self, *args, **kwargs) -> nn.Module:
        """As in timm, but the average requires no gradients, so DDP and an optimizer of the whole task expect none."""
        return super().setup_ema(*args, **kwargs).requires_grad_(False)

    def _trainable(self, ema: bool = False, module: nn.Module | None = None) -> TrainableModule | None:
        """The `TrainableModule` behind DDP, compile and EMA wrappers; that of `module` if given."""
        module = self.get_trainable_module(ema=ema) if module is None else module
        return None if module is None else unwrap_model(module)

    def get_net(self, ema: bool = False) -> DeeplySupervised | None:
        """The network with its branches, unwrapped; None if the EMA is not set up."""
        trainable = self._trainable(ema)
        return None if trainable is None else trainable.net

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The plain backbone: what is validated, saved as `state_dict` and exported."""
        trainable = self._trainable(ema, module)
        return None if trainable is None else trainable.net.backbone

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> 'DeepSupervisionTask':
        """Wrap everything that trains in DistributedDataParallel; every parameter takes part in every step."""
        ddp = nn.parallel.DistributedDataParallel
        self.trainable_module = ddp(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = 'inductor', mode: str | None = None, **kwargs) -> nn.Module:
        """Compile backbone, branches and terms as one graph. Evaluation stays eager, and so equal to validate.py's."""
        if self.teacher is not None:
            self.teacher.compile(backend=backend, mode=mode, **kwargs)
        module = getattr(self.trainable_module, '_orig_mod', self.trainable_module)  # if compiled: compile again
        self.trainable_module = torch.compile(module, backend=backend, mode=mode, **kwargs)
        return self.get_eval_model()

    def compile_ema(self, backend: str = 'inductor', mode: str | None = None, **kwargs) -> nn.Module | None:
        """Compile nothing: the EMA model is only evaluated, and evaluation stays eager."""
        return self.get_eval_model(ema=True)

    def get_clip_parameters(self, exclude_head: bool = False):
        """All parameters; with `exclude_head` (AGC) without those of the classifiers."""
        trainable = self._trainable()
        if not exclude_head:
            return list(trainable.parameters())
        excluded = {id(p) for head in trainable.net.classifiers() for p in head.parameters()}
        return [p for p in trainable.parameters() if id(p) not in excluded]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict:
        """All trained state outside the backbone: branches, terms, and a criterion with parameters."""
        trainable = self._trainable(ema, module)
        if trainable is None:
            return {}
        return {name: part.state_dict() for name, part in trained_parts(trainable).items()}

    def load_task_state(
        self, state: dict | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Load what `get_task_state` returned.

        Raises:
            ValueError: The state is missing although there are branches or parameters to load.
            RuntimeError: Keys or shapes differ (torch's own message).
        """
        trainable = self._trainable(ema, module)
        if trainable is None:
            raise ValueError('there is no EMA to load into (call setup_ema first)')
        state = state or {}
        for name, part in trained_parts(trainable).items():
            if name not in state and part.state_dict():
                raise ValueError(f'the checkpoint has no {name} in its task_state (was it saved by dkszoo?)')
            part.load_state_dict(state.get(name, {}), strict=strict)


def trained_parts(trainable: TrainableModule) -> dict[str, nn.Module]:
    """What is trained besides the backbone: branches, terms, and the criterion if it has parameters."""
    parts = {'branches': trainable.net.branches, 'terms': trainable.terms}
    criterion = trainable.criterion
    learns = isinstance(criterion, nn.Module) and next(criterion.parameters(), None) is not None
    return {**parts, 'criterion': criterion} if learns else parts


def as_net(model: nn.Module) -> DeeplySupervised:
    """The model as a `DeeplySupervised`; a plain classifier becomes one without branches.

    Raises:
        ValueError: It is wrapped, or not a timm-style classifier.
    """
    if isinstance(model, DeeplySupervised):
        return model
    if unwrap_model(model) is not model:
        raise ValueError('the network is wrapped (wrap the task instead: task.prepare_distributed(), task.compile())')
    if not all(hasattr(model, name) for name in ('forward_features', 'forward_head', 'num_classes')):
        raise ValueError(
            f'{type(model).__name__} is not a timm classifier (it needs forward_features, forward_head, num_classes)'
        )
    return DeeplySupervised(model)


def check_classes(net: DeeplySupervised, criterion: nn.Module | None) -> None:
    """Raise a ValueError if there is nothing to learn, or a branch has another number of classes than the network.

    The latter happens after `reset_classifier`, which does not change the branches.
    """
    if net.num_classes < 1 or (net.num_classes == 1 and criterion is None):
        why = ': its cross-entropy is always 0, give a criterion' if net.num_classes else ''
        raise ValueError(f'the network has {net.num_classes} classes{why} (use reset_classifier for more)')
    for i, branch in enumerate(net.branches):
        for head in classifiers(branch):
            if getattr(head, 'out_features', net.num_classes) != net.num_classes:
                raise ValueError(
                    f'branch {i} has {head.out_features} classes, the network {net.num_classes} '
                    '(attach the branches after reset_classifier)'
                )
