"""The training task: timm's contract, filled with the terms of a method."""

import difflib
from dataclasses import fields

import torch
from timm.task import TrainingTask, resolve_classification_loss
from timm.utils import unwrap_model
from torch import nn

from dkszoo.branches import DeeplySupervised, classifiers

from .methods import get_method, warn_unread
from .pairing import example_batch, pair_stages
from .settings import LossSettings
from .teacher import Teacher, own_statistics
from .terms import TERMS, Context, Term
from .trainable import TrainableModule


class DeepSupervisionTask(TrainingTask):
    """Training with auxiliary branches by any method, for timm's training loop or one's own.

    Args:
        model: A `DeeplySupervised`, or a plain classifier for the methods without branches.
        method: A name in `METHODS`, or a sum such as 'kd+ds'.
        criterion: Loss on labels, (logits [B, K], target) -> scalar; default timm's cross-entropy.
        teacher: For the methods that learn from one: a classifier of the same classes, which stays frozen and is no
            part of any state dict. The images are taken to be normalised by the model's `pretrained_cfg`, and are
            normalised anew if the teacher's says otherwise; a `Teacher` says all that itself.
        device: Where the task's tensors live.
        dtype: Their type.
        verbose: Log what the task does.
        **settings: Fields of `LossSettings`: alpha, beta, synergy, ...

    Raises:
        ValueError: Unknown method or setting, a setting out of its range, branches or a teacher that are missing or do
            not fit. (A setting that the method does not read is only warned of.)

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
        super().__init__(device=device or next(model.parameters()).device, dtype=dtype, verbose=verbose)
        self.method = method
        spec, settings = get_method(method), make_settings(settings)
        net = model if isinstance(model, DeeplySupervised) else DeeplySupervised(model)
        needs_branches = spec.needs_branches(settings)
        if needs_branches and not net.branches:
            raise ValueError(f'method {method!r} needs branches (use attach_branches, or create_model(branches=...))')
        if spec.uses_teacher != (teacher is not None):
            raise ValueError(
                f'method {method!r} needs a teacher (pass teacher=, a trained classifier)'
                if spec.uses_teacher
                else f'method {method!r} has no use for a teacher (leave it out, or use {method}+kd)'
            )
        check_classes(net)
        warn_unread(spec, settings)
        teacher = None if teacher is None else adopt_teacher(teacher, net)
        self._hold('teacher', teacher)
        kinds = [TERMS[name] for name in spec.terms]
        uses_stages = any(kind.uses_stages for kind in kinds)
        own_stages, self.teacher_stages = pair_stages(net.backbone, teacher.model) if uses_stages else ((), ())
        example = None
        if any(kind.uses_example for kind in kinds):
            example = example_batch(net, teacher, (own_stages, self.teacher_stages))
        criterion = resolve_classification_loss(criterion, self.device)
        terms = make_terms(spec.resolve(settings), Context(net, criterion, example))
        idle_branches = len(net.branches) > 0 and not needs_branches
        self.trainable_module = TrainableModule(net, terms, own_stages, idle_branches)

    def _hold(self, name: str, module: nn.Module | None) -> None:
        """Keep a module without making it a part: not in state_dict(), parameters() or train()."""
        object.__setattr__(self, name, module)

    def _apply(self, fn, *args, **kwargs):
        """Conversions such as `.to(device)` reach the teacher too; its type is its own."""
        result = super()._apply(fn, *args, **kwargs)
        if self.teacher is not None:
            self.teacher.to(self.device)
        return result

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict:
        """Images [B, C, H, W] and labels -> {'loss', 'output' (main logits), one detached value a term}."""
        if self.teacher is None:
            return self.trainable_module(input, target)
        return self.trainable_module(input, target, self.teacher(input, self.teacher_stages))

    def set_progress(self, epoch: int, epochs: int) -> None:
        """Say before an epoch which one it is, from 0, of how many; schedules (alpha's) go by it.

        Raises:
            ValueError: There is no such epoch.
        """
        if not 0 <= epoch < epochs:
            raise ValueError(f'there is no epoch {epoch} of {epochs} (they are counted from 0)')
        for term in self._trainable().terms.values():
            term.set_progress(epoch / epochs)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, for timm's optimizers."""
        return {f'trainable_module.{name}' for name in self._trainable().no_weight_decay()}

    def group_matcher(self, coarse: bool = False):
        """The layer of a parameter by its name, for timm's layer-wise learning rates."""
        matcher = self._trainable().group_matcher(coarse)
        return lambda name: matcher(name.removeprefix('trainable_module.'))

    def _trainable(self, ema: bool = False) -> TrainableModule | None:
        """The `TrainableModule` behind DDP, compile and EMA wrappers."""
        module = self.get_trainable_module(ema=ema)
        return None if module is None else unwrap_model(module)

    def get_net(self, ema: bool = False) -> DeeplySupervised | None:
        """The network with its branches, unwrapped; None for an EMA that was not set up."""
        trainable = self._trainable(ema)
        return None if trainable is None else trainable.net

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The plain backbone: what is validated, saved as `state_dict` and exported."""
        trainable = unwrap_model(module) if module is not None else self._trainable(ema)
        return None if trainable is None else trainable.net.backbone

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> 'DeepSupervisionTask':
        """Wrap all that trains in DistributedDataParallel; every parameter takes part in every step."""
        ddp = nn.parallel.DistributedDataParallel
        self.trainable_module = ddp(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = 'inductor', mode: str | None = None, **kwargs) -> nn.Module:
        """Compile backbone, branches and terms as one graph. Evaluation stays eager, so its numbers are validate's."""
        if self.teacher is not None:
            self.teacher.compile(backend=backend, mode=mode, **kwargs)
        module = getattr(self.trainable_module, '_orig_mod', self.trainable_module)  # compiled before: anew
        self.trainable_module = torch.compile(module, backend=backend, mode=mode, **kwargs)
        return self.get_eval_model()

    def compile_ema(self, backend: str = 'inductor', mode: str | None = None, **kwargs) -> nn.Module | None:
        """The EMA model is only evaluated, and evaluation stays eager."""
        return self.get_eval_model(ema=True)

    def get_clip_parameters(self, exclude_head: bool = False):
        """All parameters; with `exclude_head` (AGC) without those of any classifier."""
        trainable = self._trainable()
        if not exclude_head:
            return list(trainable.parameters())
        excluded = {id(p) for head in trainable.net.classifiers() for p in head.parameters()}
        return [p for p in trainable.parameters() if id(p) not in excluded]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict:
        """All trained state that is not the backbone's: branches and the terms' parameters."""
        trainable = unwrap_model(module) if module is not None else self._trainable(ema)
        if trainable is None:
            return {}
        return {'branches': trainable.net.branches.state_dict(), 'terms': trainable.terms.state_dict()}

    def load_task_state(
        self, state: dict | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Load what `get_task_state` gave.

        Raises:
            ValueError: The state is missing although there are branches or parameters to load.
            RuntimeError: Keys or shapes differ (torch's own message).
        """
        trainable = unwrap_model(module) if module is not None else self._trainable(ema)
        if trainable is None:
            raise ValueError('there is no EMA to load into (call setup_ema first)')
        state = state or {}
        parts = {'branches': trainable.net.branches, 'terms': trainable.terms}
        for name, part in parts.items():
            if name not in state and part.state_dict():
                raise ValueError(f'the checkpoint has no {name} in its task_state (was it saved by dkszoo?)')
            part.load_state_dict(state.get(name, {}), strict=strict)


def make_terms(asked: dict[str, dict], context: Context) -> dict[str, Term]:
    """The terms, on the network's device and of its type; the criterion keeps the precision that `promote` gives it."""
    weight, criterion = next(context.net.parameters()), context.criterion
    terms = {name: TERMS[name](context._replace(criterion=None), settings) for name, settings in asked.items()}
    for term in terms.values():
        term.to(weight.device, weight.dtype)
        if hasattr(term, 'criterion'):
            term.criterion = criterion
    if isinstance(criterion, nn.Module):
        criterion.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
    return terms


def make_settings(settings: dict) -> LossSettings:
    """The settings from keywords, tensors and arrays as plain numbers.

    Raises:
        ValueError: An unknown setting (says the nearest), or a value out of its range.
    """
    known = [f.name for f in fields(LossSettings)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'did you mean {near[0]!r}?' if near else f'settings: {", ".join(known)}'
            raise ValueError(f'unknown setting {name!r} ({hint})')
    return LossSettings(**{k: v.tolist() if hasattr(v, 'tolist') else v for k, v in settings.items()})


def check_classes(net: DeeplySupervised) -> None:
    """Raise a ValueError if a branch has other classes than the network: `reset_classifier` leaves branches alone."""
    for i, branch in enumerate(net.branches):
        for head in classifiers(branch) if hasattr(branch, 'get_classifier') else ():
            if getattr(head, 'out_features', net.num_classes) != net.num_classes:
                raise ValueError(
                    f'branch {i} has {head.out_features} classes, the network {net.num_classes} '
                    '(attach the branches after reset_classifier)'
                )


def adopt_teacher(teacher: nn.Module, net: DeeplySupervised) -> Teacher:
    """The teacher, wrapped if it is not yet, on the network's device.

    Raises:
        ValueError: It is the student itself, or has other classes.
    """
    if not isinstance(teacher, Teacher):
        own = {id(p) for p in net.parameters()}
        if any(id(p) in own for p in teacher.parameters()):
            raise ValueError('the teacher is the network itself, which would freeze (pass a copy.deepcopy of it)')
        mean, std = own_statistics(net.backbone)
        teacher = Teacher(teacher, input_mean=mean, input_std=std)
    if teacher.num_classes not in (None, net.num_classes):
        raise ValueError(
            f'the teacher has {teacher.num_classes} classes, the network {net.num_classes} '
            '(take a teacher that was trained on this data set)'
        )
    return teacher.to(next(net.parameters()).device)
