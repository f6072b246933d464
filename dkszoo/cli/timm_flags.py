"""Flags of timm's train.py and validate.py that dkszoo does not have."""

# What does the same here. Advice is given only where the command has a flag that it names.
INSTEAD = {
    '--bn-eps': '--model-kwargs bn_eps=X',
    '--bn-momentum': '--model-kwargs bn_momentum=X',
    '--distill-loss-weight': '--kd-weight X',
    '--drop-block': '--model-kwargs drop_block_rate=X',
    '--drop-connect': '--drop-path X',
    '--gp': '--model-kwargs global_pool=NAME',
    '--input-size': '--img-size H, and --in-chans C',
    '--layer-decay-min-scale': '--opt-kwargs layer_decay_min_scale=X',
    '--lr-base': '--lr X, for any batch size',
    '--no-resume-opt': '--initial-checkpoint FILE',
    '--opt-betas': '--opt-kwargs betas=X,Y',
    '--opt-eps': '--opt-kwargs eps=X',
    '--task-loss-weight': '--ce-weight X',
    '--use-ema': 'the default, unless --no-ema is given',
}
NOT_SUPPORTED = {
    *('--aug-repeats', '--aug-splits', '--jsd-loss', '--resplit', '--split-bn', '--tta'),
    *('--color-jitter-prob', '--grayscale-prob', '--gaussian-blur-prob', '--cutmix-minmax', '--recount'),
    *('--bce-sum', '--bce-pos-weight', '--kd-distill-type', '--head-init-scale', '--head-init-bias'),
    *('--lr-noise', '--lr-noise-pct', '--lr-noise-std', '--lr-cycle-mul', '--lr-cycle-decay', '--lr-cycle-limit'),
    *('--lr-k-decay', '--lr-base-size', '--lr-base-scale', '--cooldown-epochs', '--warmup-prefix'),
    *('--patience-epochs', '--epoch-repeats', '--start-epoch', '--sync-bn', '--dist-bn'),
    *('--class-map', '--train-split', '--dataset-download', '--pretrained-path', '--test-pool', '--real-labels'),
    *('--checkpoint-hist', '--eval-metric', '--log-wandb', '--save-images', '--retry'),
    *('--pin-mem', '--no-prefetcher', '--use-multi-epochs-loader', '--device-modules', '--local-rank', '--local_rank'),
    *('--amp-impl', '--fast-norm', '--fuser', '--torchscript'),
}


def advise(unknown: list[str], flags: list[str]) -> str:
    """What timm's flags among unknown arguments are called in a command with these flags; '' if there are none."""
    given = dict.fromkeys(argument.partition('=')[0] for argument in unknown)
    instead = {name: INSTEAD[name] for name in given if name in INSTEAD}
    known = {name: text for name, text in instead.items() if any(word.rstrip(',') in flags for word in text.split())}
    parts = [f"timm's {name} is {text}" for name, text in known.items()]
    if missing := [name for name in given if name in NOT_SUPPORTED]:
        parts.append(f"timm's {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not supported")
    return '; '.join(parts)
