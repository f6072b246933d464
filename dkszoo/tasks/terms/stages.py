"""Terms by which the main path's stages learn from a teacher's: FitNet, attention transfer, VID."""

import math
from collections import OrderedDict

import torch
from torch import nn

from dkszoo.losses import attention_loss, hint_loss, match_size, vid_loss

from .base import Term

VID_VARIANCE, VID_EPS = 5.0, 1e-5


class StageTerm(Term):
    """A term on pairs of stages."""

    uses_teacher = True
    teaches_main = False
    uses_stages = True
    uses_example = True


class Hint(StageTerm):
    """hint: MSE(F_T, regressor(F_S)) at one stage (FitNets eq. 3)."""

    settings = {'hint_weight': 100.0, 'hint_stage': 1}

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight, self.stage = settings['hint_weight'], settings['hint_stage']
        pairs = len(context.example.stages)
        if not 0 <= self.stage < pairs:
            raise ValueError(f'hint_stage must be 0 to {pairs - 1} here, got {self.stage} (0 is the shallowest)')
        student, teacher = context.example.stages[self.stage], context.example.teacher.stages[self.stage]
        self.regressor = hint_regressor(tuple(student.shape[1:]), tuple(teacher.shape[1:]))

    def forward(self, batch):
        hint = batch.teacher.stages[self.stage]
        return self.weight * hint_loss(self.regressor(batch.stages[self.stage]), hint)


def hint_regressor(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Sequential:
    """FitNet's regressor from a map (C, H, W) to another: a convolution with bias, a batch norm, ReLU.

    Raises:
        ValueError: The student's map is smaller than the teacher's and not half its size.
    """
    (s_chs, *s), (t_chs, *t) = student, teacher
    if s == t:
        conv = nn.Conv2d(s_chs, t_chs, 1)
    elif s == [2 * n for n in t]:
        conv = nn.Conv2d(s_chs, t_chs, 3, stride=2, padding=1)
    elif [2 * n for n in s] == t:
        conv = nn.ConvTranspose2d(s_chs, t_chs, 4, stride=2, padding=1)
    elif s[0] >= t[0] and s[1] >= t[1]:
        conv = nn.Conv2d(s_chs, t_chs, (1 + s[0] - t[0], 1 + s[1] - t[1]))
    else:
        raise ValueError(
            f'FitNet has no regressor from {s[0]}x{s[1]} to {t[0]}x{t[1]} (choose another hint_stage or teacher)'
        )
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(t_chs), relu=nn.ReLU()))


class Attention(StageTerm):
    """at: squared difference of normalised attention maps, summed over the stages (attention transfer, eq. 2)."""

    settings = {'at_weight': 1000.0, 'at_power': 2.0}

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight, self.power = settings['at_weight'], settings['at_power']

    def forward(self, batch):
        return self.weight * attention_loss(batch.stages, batch.teacher.stages, p=self.power)


class Variational(StageTerm):
    """vid: negative log-likelihood of the teacher's maps given the student's, summed over the stages (VID)."""

    settings = {'vid_weight': 1.0}

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight = settings['vid_weight']
        pairs = zip(context.example.stages, context.example.teacher.stages, strict=True)
        self.pairs = nn.ModuleList(VidPair(student.shape[1], teacher.shape[1]) for student, teacher in pairs)

    def forward(self, batch):
        pairs = zip(self.pairs, batch.stages, batch.teacher.stages, strict=True)
        return self.weight * torch.stack([pair(student, teacher) for pair, student, teacher in pairs]).sum()


class VidPair(nn.Module):
    """One stage: a regressor for the mean and a variance for each channel of the teacher."""

    def __init__(self, in_chs: int, out_chs: int):
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(in_chs, out_chs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_chs, out_chs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_chs, out_chs, 1, bias=False),
        )
        self.log_scale = nn.Parameter(torch.full((out_chs,), math.log(math.expm1(VID_VARIANCE - VID_EPS))))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = match_size(student, teacher)
        return vid_loss(self.regressor(student), teacher, self.log_scale, VID_EPS)
