"""The training loop."""

import logging
import time
from pathlib import Path

import torch

from dkszoo.weights import load_strictly

from .checkpoint import (
    BEST,
    LAST,
    Progress,
    capture,
    copy_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    recovery_files,
    restore,
    save_checkpoint,
)
from .evaluate import eval_loader, evaluate
from .folder import RunFolder
from .progress import ProgressBar
from .rng import rng_state, set_rng_state
from .setup import Setup
from .signals import StopRequest
from .step import NonFinite, Stepper
from .sums import Sums

_logger = logging.getLogger(__name__)

MINUTE = 60.0


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
        self.progress = Progress()
        self.stepper = Stepper(setup)
        self.loaders = {name: self.eval_loader(view) for name in ('val', 'test') if (view := getattr(setup.data, name))}
        self.saved_at = time.monotonic()

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

    # -- resume ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest good checkpoint, if there is one."""
        if self.config.resume:
            checkpoint = read_checkpoint(self.config.resume)
        else:
            checkpoint = newest_checkpoint(self.folder.path, lambda text: _logger.warning('%s', text))
        if checkpoint is None:
            return
        self.progress = restore(self.setup, checkpoint)
        if self.world.is_main:
            self.folder.write_summary(self.progress.history)
        _logger.info('resumed at epoch %d, step %d', self.progress.epoch + 1, self.progress.step)

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
                if self.at_update() and (self.stop.signum is not None or self.recovery_due()):
                    progress.sums = sums.to_dict()
                    self.save_recovery()
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
        self.save_recovery()
        raise RunFailed(f'{where} for samples {names} (lower --lr, or --skip-nonfinite N passes over N such steps)')

    def at_update(self) -> bool:
        """Whether the parameters were just updated, so that no gradients are pending."""
        step = self.progress.step
        return step % self.config.grad_accum_steps == 0 or step == self.setup.sampler.steps

    def recovery_due(self) -> bool:
        interval = self.config.recovery_interval
        if interval:
            return self.progress.step % interval == 0
        return time.monotonic() - self.saved_at > MINUTE

    def save_recovery(self) -> None:
        """Write a recovery checkpoint of this very position; the newest two are kept."""
        if self.world.is_main:
            progress = self.progress
            path = self.folder.path / f'recovery-{progress.epoch}-{progress.step}.pth.tar'
            save_checkpoint(capture(self.setup, progress), path)
            for old in recovery_files(self.folder.path)[2:]:
                old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    # -- after an epoch --------------------------------------------------------------------------------------------

    def evaluate(self, name: str) -> dict[str, float]:
        """Every head on the validation or test set, on the averaged weights if there are any.

        A signal in the middle saves where training is, and ends the run.
        """

        def between() -> None:
            if self.stop.signum is not None:
                set_rng_state(state, self.world.device)
                if self.progress.epoch < self.config.epochs:
                    self.save_recovery()
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
        better = progress.best_metric is None or metric > progress.best_metric
        if better:
            progress.best_epoch, progress.best_metric = progress.epoch, metric
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        if self.world.is_main:
            self.save_epoch(metric, better)
        self.saved_at = time.monotonic()
        self.stop.check()

    def save_epoch(self, metric: float, better: bool) -> None:
        checkpoint = capture(self.setup, self.progress, metric)
        checkpoint['epoch'] = self.progress.epoch - 1  # timm's count: the epoch that is done
        last, best = self.folder.path / LAST, self.folder.path / BEST
        self.folder.write_summary(self.progress.history)
        if better:  # before `last`: a run killed in between does this epoch again and writes the same best
            save_checkpoint(checkpoint, best)
            copy_checkpoint(best, last)
        else:
            save_checkpoint(checkpoint, last)
        for old in recovery_files(self.folder.path):
            old.unlink(missing_ok=True)

    def report(self, row: dict) -> None:
        figures = row['eval']
        heads = ' '.join(f'{k} {v:.2f}' for k, v in figures.items() if k.endswith('top1'))
        mark = ' *' if self.progress.best_epoch == row['epoch'] else ''
        _logger.info('epoch %d: train loss %.4f, %s%s', row['epoch'] + 1, row['train']['loss'], heads, mark)

    # -- the end ---------------------------------------------------------------------------------------------------

    def test(self) -> dict:
        """Test the last and the best weights, as they stand in the files."""
        result = {'best_epoch': self.progress.best_epoch, 'best_on': self.config.best_on}
        for name, file in (('last', LAST), ('best', BEST)):
            self.load_weights(self.folder.path / file)
            result[name] = self.evaluate('test')
        return result

    def load_weights(self, path: Path) -> None:
        """Put the weights of a file of this run into the network that is evaluated."""
        ema = self.config.model_ema
        checkpoint = read_checkpoint(path)
        suffix = '_ema' if ema else ''
        load_strictly(self.setup.task.get_eval_model(ema=ema), checkpoint[f'state_dict{suffix}'], str(path))
        self.setup.task.load_task_state(checkpoint.get(f'task_state{suffix}'), ema=ema)
