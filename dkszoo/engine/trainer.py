"""The training loop."""

import logging
import time

import torch

from .checkpoint import Progress
from .evaluate import eval_loader, evaluate
from .folder import RunFolder
from .keeper import Keeper
from .progress import ProgressBar
from .rng import rng_state, set_rng_state
from .setup import Setup
from .signals import StopRequest
from .step import NonFinite, Stepper
from .sums import Sums

_logger = logging.getLogger(__name__)


class RunFailed(Exception):
    """The run ended itself because a check of its own failed."""


class Trainer:
    """Trains to the end, from wherever the run folder says the run is.

    Args:
        setup: What the run is made of.
        folder: Where its files go.
        stop: Whether somebody has asked to stop.
        skip_nonfinite: Non-finite losses to pass over before giving up.
    """

    def __init__(self, setup: Setup, folder: RunFolder, stop: StopRequest, skip_nonfinite: int = 0):
        self.setup, self.folder, self.stop, self.skip_nonfinite = setup, folder, stop, skip_nonfinite
        self.config, self.world = setup.config, setup.world
        self.keeper = Keeper(setup, folder)
        self.progress = Progress()
        self.stepper = Stepper(setup)
        self.loaders = {name: self.eval_loader(view) for name in ('val', 'test') if (view := getattr(setup.data, name))}

    def eval_loader(self, view):
        config = self.config
        return eval_loader(
            view,
            config.img_size,
            config.mean,
            config.std,
            config.validation_batch_size,
            config.workers,
            config.interpolation,
            config.crop_pct,
            device=self.world.device,
            distributed=self.world.size > 1,
        )

    def resume(self) -> None:
        """Go on from the newest good checkpoint, if there is one."""
        self.progress = self.keeper.resume()

    # -- training --------------------------------------------------------------------------------------------------

    def fit(self) -> dict:
        """Train to the last epoch and test; returns the result (last and best, in percent)."""
        while self.progress.epoch < self.config.epochs:
            began = time.monotonic()
            self.train_epoch()
            trained = time.monotonic()
            self.finish_epoch()
            if self.world.is_main:
                row = self.progress.history[-1]
                seconds = dict(train=round(trained - began, 3), evaluate=round(time.monotonic() - trained, 3))
                self.folder.log(**row, seconds=seconds, time=time.time())
                self.report(row)
        return self.test()

    def train_epoch(self) -> None:
        setup, progress, sampler = self.setup, self.progress, self.setup.sampler
        if setup.scheduler is not None:
            setup.scheduler.step(progress.epoch)
        setup.task.train()
        setup.task.set_progress(progress.epoch, self.config.epochs)
        sampler.set_position(progress.epoch, progress.step)
        bar = ProgressBar(
            progress.epoch,
            self.config.epochs,
            sampler.steps,
            progress.step,
            sampler.global_batch,
            self.config.log_interval,
            self.world.is_main,
        )
        sums = Sums(progress.sums, self.world.device)
        if progress.step < sampler.steps:
            for images, targets in setup.loader:
                self.train_step(images, targets, sums)
                if bar.due(progress.step):
                    figures = sums.means()
                    bar.update(progress.step, figures['loss'], figures.get('top1', 0.0))
                if self.at_update() and (self.asked_to_stop() or self.keeper.recovery_due(progress)):
                    progress.sums = sums.to_dict()
                    self.keeper.save_recovery(self.progress)
                    self.stop.check()
        progress.sums = sums.to_dict()
        bar.close()

    def train_step(self, images: torch.Tensor, targets: torch.Tensor, sums: Sums) -> None:
        progress, step = self.progress, self.progress.step
        images, targets = self.stepper.to_device(images, targets)
        labels = targets
        images, targets = self.stepper.mix(images, targets, progress.epoch, step)
        try:
            result, updated = self.stepper(images, targets, step, self.setup.sampler.steps, progress.updates)
        except NonFinite as error:
            self.handle_nonfinite(error, sums)
        else:
            progress.updates += updated
            sums.add(result, labels[: len(images)])
        progress.step += 1

    def handle_nonfinite(self, error: NonFinite, sums: Sums) -> None:
        """Save what was before the step and end the run, or pass over the step if that is allowed."""
        progress = self.progress
        samples = self.setup.sampler.indices(progress.epoch, progress.step)
        view = self.setup.data.train
        where = f'epoch {progress.epoch + 1}, step {progress.step + 1}: term {error} is not finite'
        names = [int(view.indices[i]) for i in samples]
        progress.skipped += 1
        if progress.skipped <= self.skip_nonfinite:
            _logger.warning('%s; step passed over (samples %s)', where, names)
            self.setup.optimizer.zero_grad()
            return
        progress.skipped -= 1
        progress.sums = sums.to_dict()
        self.keeper.save_recovery(self.progress)
        raise RunFailed(f'{where} for samples {names} (lower --lr, or --skip-nonfinite N passes over N such steps)')

    def at_update(self) -> bool:
        """Whether the parameters were just updated, so that no gradients are pending."""
        step = self.progress.step
        return step % self.config.grad_accum_steps == 0 or step == self.setup.sampler.steps

    def asked_to_stop(self) -> bool:
        """Whether a signal has come, to any process."""
        asked = self.stop.signum is not None
        if self.world.size > 1:
            flag = torch.tensor(self.stop.signum or 0, device=self.world.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag)
            self.stop.signum = int(flag) or None
        return asked

    # -- after an epoch --------------------------------------------------------------------------------------------

    def evaluate(self, name: str) -> dict[str, float]:
        """Every head on the validation or test set, on the averaged weights if there are any.

        A signal in the middle saves where training is, and ends the run.
        """

        def between() -> None:
            if self.stop.signum is not None:
                set_rng_state(state, self.world.device)
                if self.progress.epoch < self.config.epochs:
                    self.keeper.save_recovery(self.progress)
                self.stop.check()

        state = rng_state(self.world.device)
        net = self.setup.task.get_net(ema=self.config.model_ema)
        figures = evaluate(
            net, self.loaders[name], self.world.device, self.config.channels_last, between, self.world.size > 1
        )
        set_rng_state(state, self.world.device)
        return figures

    def finish_epoch(self) -> None:
        """Evaluate, note the row, keep the best and save."""
        config, progress = self.config, self.progress
        figures = self.evaluate('val') if 'val' in self.loaders else {}
        if config.best_on == 'test' or config.eval_test_every_epoch:
            figures |= {f'test_{key}': value for key, value in self.evaluate('test').items()}
        metric = figures['test_top1' if config.best_on == 'test' else 'top1']
        means = Sums(progress.sums, torch.device('cpu')).reduced_means(self.world)
        rates = [group['lr'] for group in self.setup.optimizer.param_groups]
        row = dict(epoch=progress.epoch, lr=max(rates), train=means, eval=figures)
        if config.best_on == 'test':
            row['eval']['best_on'] = 'test'
        progress.history.append(row)
        better = progress.best_metric is None or metric >= progress.best_metric  # of equals, the longer trained
        if better:
            progress.best_epoch, progress.best_metric = progress.epoch, metric
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        self.keeper.save_epoch(progress, metric, better)
        self.stop.check()

    def report(self, row: dict) -> None:
        figures = row['eval']
        heads = ' '.join(f'{k} {v:.2f}' for k, v in figures.items() if k.endswith('top1'))
        mark = ' *' if self.progress.best_epoch == row['epoch'] else ''
        _logger.info('epoch %d: train loss %.4f, %s%s', row['epoch'] + 1, row['train']['loss'], heads, mark)

    # -- the end ---------------------------------------------------------------------------------------------------

    def test(self) -> dict:
        """Test the last and the best weights, as they stand in the files."""
        result = {'best_epoch': self.progress.best_epoch, 'best_on': self.config.best_on}
        for name in ('last', 'best'):
            self.keeper.load_weights(name)
            result[name] = self.evaluate('test')
        return result
