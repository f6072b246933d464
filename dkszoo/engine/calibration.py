"""How far a classifier's confidence is from its accuracy."""

import torch

BINS = 15


class CalibrationError:
    """The expected calibration error over a whole data set.

    ECE = sum over bins of |B_m| / n * |acc(B_m) - conf(B_m)| (Naeini et al., 2015; Guo et al., 2017, eq. 3), where the
    confidence of an image is its largest softmax probability, and bin m of M equally wide ones holds the images with a
    confidence in ((m - 1) / M, m / M]. M is 15, as in Guo et al.
    """

    def __init__(self):
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            logits: [B, K].
            targets: Class indices [B].
        """
        confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
        self.batches.append((confidence, predicted == targets))

    def compute(self) -> float:
        """The error in percent, in [0, 100]; 0 without images."""
        if not self.batches:
            return 0.0
        confidence, correct = (torch.cat(parts).cpu().double() for parts in zip(*self.batches, strict=True))
        inner = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
        index = torch.bucketize(confidence, inner)
        gaps = torch.bincount(index, weights=correct - confidence, minlength=BINS)  # |B| (acc - conf) of each bin
        return 100.0 * gaps.abs().sum().item() / len(confidence)
