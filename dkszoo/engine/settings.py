"""The settings that are not the loss's: fields are the flags of train.py and the keys of a recipe."""

from dataclasses import dataclass

from dkszoo.tasks import METHODS
from dkszoo.tasks.settings import setting

CUDA_GRAPHS = ('reduce-overhead', 'max-autotune')
COMPILE_MODES = ('default', *CUDA_GRAPHS, 'max-autotune-no-cudagraphs')


@dataclass(frozen=True)
class ModelSettings:
    model: str = setting('cifar_resnet20', 'name of a dkszoo or timm model')
    pretrained: bool = setting(False, "start from the model's pretrained weights")
    initial_checkpoint: str = setting('', 'start from the weights in this file', metavar='FILE')
    num_classes: int | None = setting(None, "classes (default: the data set's)")
    in_chans: int | None = setting(None, "image channels (default: the data set's)")
    img_size: int | None = setting(None, "side of the training images (default: the data set's, else the model's)")
    drop: float = setting(0.0, 'dropout before the classifiers')
    drop_path: float | None = setting(None, 'stochastic depth, for models that have it')
    model_kwargs: dict | None = setting(None, 'further arguments of the model', metavar='KEY=VALUE')
    branches: str | dict = setting(
        '',
        "branch design, a YAML or JSON file with a custom one, or 'none' (default: the method's)",
        metavar='NAME_OR_FILE',
    )
    taps: tuple | None = setting(None, 'where branches leave: feature indices or module names', metavar='T')
    grad_checkpointing: bool = setting(False, 'recompute blocks in the backward pass to save memory')


@dataclass(frozen=True)
class MethodSettings:
    method: str = setting('dks', f'training method: {", ".join(METHODS)}, or a sum such as kd+ds', metavar='METHOD')
    smoothing: float = setting(0.0, 'label smoothing')
    bce_loss: bool = setting(False, 'binary cross-entropy instead of cross-entropy')
    bce_target_thresh: float | None = setting(
        None, 'labels above this count as 1 in --bce-loss, others as 0 (default: labels as they are)', metavar='X'
    )
    kd_model_name: str = setting('', 'the teacher: a dkszoo or timm model, pretrained unless a checkpoint is given')
    kd_checkpoint: str = setting('', "the teacher's weights, in any format that dkszoo convert reads", metavar='FILE')
    kd_dtype: str | None = setting(
        None, "type the teacher computes in (default: the student's)", choices=('float32', 'float16', 'bfloat16')
    )


@dataclass(frozen=True)
class DataSettings:
    dataset: str = setting('digits', "'digits' or a timm data set name; '' for an image folder")
    data_dir: str | None = setting(None, 'root folder of the data set', metavar='DIR')
    train_num_samples: int | None = setting(None, 'train on this many images, a fixed subset balanced over the classes')
    val_split: float = setting(0.1, 'fraction of the training set held out to choose the best epoch; 0: none')
    best_on: str = setting('val', 'what the best epoch is chosen on', choices=('val', 'test'))
    label_noise: float = setting(0.0, 'fraction of the training labels to make wrong')
    noise_seed: int = setting(0, 'random seed of the wrong labels')
    batch_size: int = setting(64, 'samples per step and process', short='-b')
    validation_batch_size: int = setting(256, 'samples per step in evaluation', short='-vb')
    loader: str = setting(
        'auto', 'images in memory, or loaded one by one (auto: memory if possible)', choices=('auto', 'memory', 'timm')
    )
    workers: int = setting(2, 'loading processes of --loader timm', short='-j')
    mean: tuple[float, ...] | None = setting(None, "channel means (default: the data set's, else the model's)")
    std: tuple[float, ...] | None = setting(None, 'channel standard deviations')
    interpolation: str | None = setting(
        None, "resizing (default: bilinear up to 64 px, else the model's)", choices=('bilinear', 'bicubic')
    )
    crop_pct: float | None = setting(
        None, "fraction of the image that the evaluation crop keeps (default: 1 up to 64 px, else the model's)"
    )
    crop_mode: str | None = setting(
        None,
        "evaluation crop; squash ignores the aspect ratio (default: center up to 64 px, else the model's)",
        choices=('center', 'squash', 'border'),
    )
    train_crop_mode: str = setting(
        'rrc',
        "training crop above 64 px: timm's three, or squash: resize as --crop-mode squash does, random crop, no jitter",
        choices=('rrc', 'rkrc', 'rkrr', 'squash'),
    )
    scale: tuple[float, ...] | None = setting(
        None,
        "area of timm's training crop as part of the image, least and greatest (default 0.08 1; rkrc, rkrr: 0.8 1)",
    )
    ratio: tuple[float, ...] | None = setting(
        None, "aspect ratio of timm's training crop, least and greatest (default 0.75 1.33; rkrc, rkrr: 0.9 1.11)"
    )
    train_interpolation: str | None = setting(
        None,
        "resizing of timm's training crop; random chooses for each image (default: that of evaluation)",
        choices=('random', 'bilinear', 'bicubic'),
    )
    pad: int | None = setting(None, "padding of the random crop up to 64 px (default: the data set's)")
    pad_mode: str = setting('constant', 'content of the padding', choices=('constant', 'reflect'))
    hflip: float | None = setting(None, "probability of a horizontal flip (default: the data set's)")
    vflip: float = setting(0.0, 'probability of a vertical flip')
    no_aug: bool = setting(False, 'turn off augmentation of single images, despite other flags (mixup and cutmix stay)')
    aa: str | None = setting(None, "timm's auto-augment policy", metavar='POLICY')
    color_jitter: float = setting(0.4, "strength of timm's colour jitter: above 64 px without --aa, and in its 3a")
    reprob: float = setting(0.0, 'probability of random erasing')
    remode: str = setting(
        'const',
        'random erasing writes the mean colour, one random colour, or one for each pixel',
        choices=('const', 'rand', 'pixel'),
    )
    cutout: int = setting(0, 'side of the square that Cutout hides, in pixels; 0: off')
    mixup: float = setting(0.0, 'mixup alpha; 0: off')
    cutmix: float = setting(0.0, 'CutMix alpha; 0: off')
    mixup_prob: float = setting(1.0, 'probability of mixing a batch, by --mixup or --cutmix')
    mixup_switch_prob: float = setting(0.5, 'probability of CutMix if both are on')
    mixup_mode: str = setting(
        'batch', 'mix all samples, pairs or each sample in its own proportion', choices=('batch', 'pair', 'elem')
    )
    mixup_off_epoch: int = setting(0, 'epochs after which mixing ends; 0: never')


@dataclass(frozen=True)
class OptimSettings:
    epochs: int = setting(200, 'total number of epochs')
    opt: str = setting('sgd', "timm's optimizer name; sgd has Nesterov momentum, momentum does not")
    lr: float = setting(0.1, 'learning rate')
    opt_kwargs: dict | None = setting(
        None, 'further arguments of the optimizer, such as eps=1e-3 betas=0.9,0.99', metavar='KEY=VALUE'
    )
    momentum: float = setting(0.9, 'momentum')
    weight_decay: float = setting(5e-4, 'weight decay')
    filter_bias_and_bn: bool = setting(False, 'no weight decay on biases and norms')
    layer_decay: float | None = setting(None, 'layer-wise learning-rate decay')
    branch_lr_scale: float = setting(1.0, 'factor on the learning rate of all parameters outside the backbone')
    branch_warmup_epochs: int = setting(0, 'epochs over which --branch-lr-scale rises to its full value')
    sched: str = setting('cosine', 'cosine, step, multistep, poly, tanh or constant, as in timm')
    sched_on_updates: bool = setting(False, 'change the learning rate at every update, not every epoch')
    decay_milestones: tuple[int, ...] = setting(
        (60, 120, 160), 'epochs, counted from 1, at whose start the rate drops (multistep)', metavar='E'
    )
    decay_epochs: float = setting(90.0, 'epochs between drops (step)')
    decay_rate: float = setting(
        0.1, 'factor of each drop (step, multistep); exponent of poly (1 is linear)', short='--dr'
    )
    min_lr: float = setting(0.0, 'lowest learning rate (cosine, poly, tanh)')
    warmup_lr: float = setting(1e-5, 'learning rate the warm-up starts from')
    warmup_epochs: int = setting(0, 'epochs of linear warm-up')
    clip_grad: float | None = setting(None, 'clip gradients to this value, see --clip-mode (default: off)')
    clip_mode: str = setting('norm', 'kind of clipping', choices=('norm', 'value', 'agc'))
    grad_accum_steps: int = setting(1, 'steps per parameter update')
    model_ema: bool = setting(False, 'keep an exponential moving average of the weights and evaluate it')
    model_ema_decay: float = setting(0.999, 'decay of --model-ema')
    model_ema_warmup: bool = setting(False, 'begin with a smaller decay, which rises to --model-ema-decay')
    amp: bool = setting(False, 'mixed precision')
    amp_dtype: str = setting('float16', 'data type of --amp', choices=('float16', 'bfloat16'))
    channels_last: bool | None = setting(None, 'channels_last memory layout (default: off)')
    torchcompile: bool = setting(False, 'compile network, branches and losses as one graph', word='inductor')
    torchcompile_mode: str | None = setting(
        None,
        f"torch.compile's mode; {' and '.join(CUDA_GRAPHS)} replay CUDA graphs (default default)",
        choices=COMPILE_MODES,
    )
    deterministic: bool = setting(False, 'deterministic cuDNN: a run on a GPU can be repeated bit for bit, but slower')


@dataclass(frozen=True)
class RunSettings:
    seed: int = setting(42, 'random seed')
    device: str = setting('', 'device (default: the best available)')
    output: str = setting('runs', 'parent folder of the run folders', metavar='DIR')
    experiment: str = setting('', "name of the run folder (default: the recipe's name, else MODEL-METHOD-DATASET)")
    resume: str = setting('', 'continue from this checkpoint if the run folder has none yet', metavar='FILE')
    overwrite: bool = setting(False, 'start from scratch in a run folder that holds another run')
    eval_test_every_epoch: bool = setting(False, 'evaluate the test set after every epoch')
    log_interval: int = setting(50, 'steps between plain progress lines')
    recovery_interval: int = setting(0, 'steps between recovery checkpoints; 0: about one a minute')
    skip_nonfinite: int = setting(
        0, 'non-finite losses to skip before the run ends (above 0, every step waits for the accelerator)'
    )
    export: str = setting('', 'export the best epoch at the end, to this .safetensors, .onnx or .pt2', metavar='FILE')
