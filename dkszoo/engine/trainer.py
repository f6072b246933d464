"""The training loop."""

import time

import torch

from .contents import Progress
from .evaluate import best_by, eval_loader, evaluate
from .finite import NonFinite
from .folder import RunFolder
from .keeper import Keeper, RunFailed
from .optim import set_rates
from .progress import ProgressBar, report_epoch
from .rng import rng_state, set_rng_state
from .setup import Setup
from .signals import StopRequest, batches_of, closing_processes
from .step import Stepper
from .sums import Sums

MOST_NAMED = 8  # samples in a message
ADVICE = 'start again with a lower --lr, or resume with --skip-nonfinite N, which skips up to N steps'


class Trainer:
    """Trains to the last epoch, from the position that the run folder holds.

    Args:
        setup: The parts of the run.
        folder: The folder of its files.
        stop: Records requests to stop.
    """

    def __init__(self, setup: Setup, folder: RunFolder, stop: StopRequest):
        self.setup, self.folder, self.stop = setup, folder, stop
        self.config, self.world = setup.config, setup.world
        self.keeper = Keeper(setup, folder)
        self.progress = Progress()
        self.stepper = Stepper(setup)
        self.loaders = {name: self.eval_loader(view) for name in ('val', 'test') if (view := getattr(setup.data, name))}

    def eval_loader(self, view: torch.utils.data.Dataset, distributed: bool = True):
        keys = ('img_size', 'mean', 'std', 'workers', 'interpolation', 'crop_pct', 'crop_mode')
        return eval_loader(
            view,
            **{key: getattr(self.config, key) for key in keys},
            batch_size=self.config.validation_batch_size,
            device=self.world.device,
            distributed=distributed and self.world.size > 1,
        )

    def resume(self) -> None:
        """Resume from the newest good checkpoint, if there is one."""
        self.progress = self.keeper.resume()

    def settle(self) -> None:
        """Put the run folder in order (first process only)."""
        self.keeper.settle(self.progress)

    # -- training --------------------------------------------------------------------------------------------------

    def fit(self) -> dict:
        """Train to the last epoch and test; returns the result (in the first process with last and best, in percent).

        Raises:
            Stopped: A signal came; the position is saved.
            RunFailed: A loss or a weight is not finite.
        """
        with self.stop.deferred(), closing_processes(self.setup.loader):
            self.began = time.monotonic() - self.progress.seconds  # start of the epoch, were it without breaks
            if self.stepper.finite.later and self.keeper.source is None:
                self.save_recovery()  # a non-finite loss found later needs a file from before it
            while self.progress.epoch < self.config.epochs:
                self.began = time.monotonic() - self.progress.seconds
                self.train_epoch()
                self.finish_epoch()
        return self.test()

    def train_epoch(self) -> None:
        setup, progress, sampler = self.setup, self.progress, self.setup.sampler
        config, show = self.config, self.world.is_main
        setup.task.train()
        setup.task.set_progress(progress.epoch, config.epochs)
        sampler.set_position(progress.epoch, progress.step)
        bar = ProgressBar(
            progress.epoch, config.epochs, sampler.steps, progress.step, sampler.global_batch, config.log_interval, show
        )
        sums = Sums(progress.sums, self.world.device)
        with batches_of(setup.loader if progress.step < sampler.steps else ()) as batches:
            for images, targets in batches:
                if progress.step % config.grad_accum_steps == 0:
                    updated = progress.step, sums.copy(), progress.skipped
                    set_rates(setup.scheduler, config, sampler.steps, progress.epoch, progress.step)
                self.train_step(images, targets, sums, updated)
                if progress.step % config.log_interval == 0:
                    self.look_at_losses()
                if bar.due(progress.step) and (figures := sums.means()):
                    bar.update(progress.step, figures['loss'], figures.get('top1', 0.0))
                if self.at_update():
                    self.save_if_due(sums)
        self.look_at_losses()
        progress.sums = sums.to_dict()
        bar.close()
        if not progress.sums:
            raise RunFailed(f'every step of epoch {progress.epoch + 1} was skipped (start again with a lower --lr)')

    def train_step(
        self, images: torch.Tensor, targets: torch.Tensor, sums: Sums, updated: tuple[int, Sums, int]
    ) -> None:
        """One step; `updated` is the step at which the parameters were last updated, and the sums and skips then."""
        progress, step = self.progress, self.progress.step
        images, labels = self.stepper.to_device(images, targets)
        images, targets = self.stepper.mix(images, labels, progress.epoch, step)
        try:
            result, was_updated = self.stepper(images, targets, step, progress.updates)
        except NonFinite as error:
            self.handle_nonfinite(error, *updated)
        else:
            progress.updates += was_updated
            sums.add(result, labels[: len(images)])
        progress.step += 1

    def handle_nonfinite(self, error: NonFinite, updated: int, sums: Sums, skipped: int) -> None:
        """Skip the step if that is allowed; else save the state at the last update and end the run."""
        progress, what = self.progress, self.describe(error)
        sound = self.keeper.is_sound()
        if sound and progress.skipped < self.config.skip_nonfinite:
            progress.skipped += 1
            self.keeper.warn(f'{what}; step skipped')
            return
        if not sound:
            raise RunFailed(f'{what}, and neither are the weights (start again with a lower --lr)')
        progress.step, progress.sums, progress.skipped = updated, sums.to_dict(), skipped
        self.save_recovery()
        raise RunFailed(f'{what} ({ADVICE})')

    def look_at_losses(self) -> None:
        """Check the losses since the last check, unless every step was checked.

        Raises:
            RunFailed: One is not finite. The weights have been updated since, but all that was saved is from before it.
        """
        try:
            self.stepper.finite.look()
        except NonFinite as error:
            raise RunFailed(f'{self.describe(error)} ({ADVICE})') from error

    def describe(self, error: NonFinite) -> str:
        """The step, its terms and its first samples, for a message; logs all samples."""
        epoch, view = self.progress.epoch, self.setup.data.train
        samples = self.setup.sampler.indices(epoch, error.step)
        names = [int(view.indices[i]) for part in self.world.gather(samples) for i in part]
        self.keeper.warn(f'samples of step {error.step + 1}: {names}')
        said = ', '.join(map(str, names[:MOST_NAMED])) + (', ...' if len(names) > MOST_NAMED else '')
        return f'epoch {epoch + 1}, step {error.step + 1}: term {error} is not finite for samples {said}'

    def at_update(self) -> bool:
        """Whether the parameters were just updated, so that no gradients are pending."""
        step = self.progress.step
        return step % self.config.grad_accum_steps == 0 or step == self.setup.sampler.steps

    def save_if_due(self, sums: Sums) -> None:
        """Write a recovery checkpoint if it is due or a signal has come; then stop if one has."""
        if any(self.agree(self.keeper.recovery_due(self.progress))):
            self.look_at_losses()
            self.progress.sums = sums.to_dict()
            self.save_recovery()
            self.stop.check()

    def save_recovery(self) -> None:
        self.progress.seconds = time.monotonic() - self.began
        self.keeper.save_recovery(self.progress)
        self.world.wait()  # if another process ended now, torchrun would stop the one that is writing

    def agree(self, due: bool = False) -> tuple[bool, bool]:
        """Whether a signal has come to any process, and whether a checkpoint is due in any."""
        signum, due = self.world.largest(self.stop.signum or 0, due)
        if signum:  # do not overwrite one that has just come
            self.stop.learn(signum)
        return bool(signum), bool(due)

    # -- after an epoch --------------------------------------------------------------------------------------------

    def evaluate(self, name: str) -> dict[str, float]:
        """Evaluate every head on the validation or test set, with the averaged weights if there are any.

        A signal meanwhile saves the position and ends the run.
        """

        def between() -> None:
            if any(self.agree()):
                set_rng_state(state, self.world.device)
                self.save_recovery()
                self.stop.check()

        state = rng_state(self.world.device)
        figures = evaluate(
            self.net(), self.loaders[name], self.world.device, self.config.channels_last, between, self.world.size > 1
        )
        set_rng_state(state, self.world.device)
        return figures

    def net(self) -> torch.nn.Module:
        """The network to evaluate: the averaged one if there is one."""
        return self.setup.task.get_net(ema=self.config.model_ema)

    def finish_epoch(self) -> None:
        """Evaluate, record the row, track the best epoch and save."""
        config, progress, trained = self.config, self.progress, time.monotonic()
        for ema in (False, True):
            self.world.share_buffers(self.setup.task.get_net(ema=ema))
        figures = self.evaluate('val') if 'val' in self.loaders else {}
        if config.best_on == 'test' or config.eval_test_every_epoch:
            figures |= {f'test_{key}': value for key, value in self.evaluate('test').items()}
        metric = figures[best_by(config)]
        means = Sums(progress.sums, torch.device('cpu')).reduced_means(self.world)
        rates = [group['lr'] for group in self.setup.optimizer.param_groups]
        row = dict(epoch=progress.epoch, lr=max(rates), train=means, eval=figures)
        if config.best_on == 'test':
            row['eval']['best_on'] = 'test'
        progress.history.append(row)
        better = progress.best_metric is None or metric >= progress.best_metric  # of equals, the later one
        if better:
            progress.best_epoch, progress.best_metric = progress.epoch, metric
        progress.epoch, progress.step, progress.sums, progress.seconds = progress.epoch + 1, 0, {}, 0.0
        if self.world.is_main:  # before the checkpoint, which marks all this as done
            seconds = dict(train=round(trained - self.began, 3), evaluate=round(time.monotonic() - trained, 3))
            self.folder.log(**row, seconds=seconds, time=time.time())
        self.keeper.save_epoch(progress, metric, better)
        if self.world.is_main:
            report_epoch(row, progress.best_epoch == row['epoch'])
        self.agree()
        self.stop.check()

    # -- the end ---------------------------------------------------------------------------------------------------

    def test(self) -> dict:
        """Test the last and the best weights, as saved in the files.

        The first process does it alone, as validate.py does: if distributed, the loss would differ in its last digits.
        """
        result = {'best_epoch': self.progress.best_epoch, 'best_on': self.config.best_on}
        if self.world.is_main:
            shared = self.world.size > 1
            loader = self.eval_loader(self.setup.data.test, distributed=False) if shared else self.loaders['test']
            for name in ('last', 'best'):
                self.keeper.load_weights(name)
                known = name == 'best' and result['best_epoch'] == self.progress.epoch - 1  # the last is the best
                args = self.net(), loader, self.world.device, self.config.channels_last, self.stop.check
                result[name] = dict(result['last']) if known else evaluate(*args)
        return result
