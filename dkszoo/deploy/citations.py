"""The papers to cite for a network trained with a method."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper; `venue` is '' for a preprint."""

    key: str
    title: str
    author: str
    venue: str
    year: int
    arxiv: str

    @property
    def bibtex(self) -> str:
        kind, place = ('inproceedings', 'booktitle') if self.venue else ('article', 'journal')
        fields = {
            'title': self.title,
            'author': self.author,
            place: self.venue or f'arXiv preprint arXiv:{self.arxiv}',
            'year': self.year,
            'note': f'arXiv:{self.arxiv}',
        }
        return '\n'.join([f'@{kind}{{{self.key},', *(f'  {k} = {{{v}}},' for k, v in fields.items()), '}'])


CVPR = 'IEEE/CVF Conference on Computer Vision and Pattern Recognition'
ICLR = 'International Conference on Learning Representations'
PAPERS = {
    'ds': Paper(
        'lee2015dsn',
        'Deeply-Supervised Nets',
        'Lee, Chen-Yu and Xie, Saining and Gallagher, Patrick and Zhang, Zhengyou and Tu, Zhuowen',
        'International Conference on Artificial Intelligence and Statistics',
        2015,
        '1409.5185',
    ),
    'dks': Paper(
        'sun2019dks',
        'Deeply-supervised Knowledge Synergy',
        'Sun, Dawei and Yao, Anbang and Zhou, Aojun and Zhao, Hao',
        CVPR,
        2019,
        '1906.00675',
    ),
    'kd': Paper(
        'hinton2015kd',
        'Distilling the Knowledge in a Neural Network',
        'Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff',
        '',
        2015,
        '1503.02531',
    ),
    'fitnet': Paper(
        'romero2015fitnets',
        'FitNets: Hints for Thin Deep Nets',
        'Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo '
        'and Bengio, Yoshua',
        ICLR,
        2015,
        '1412.6550',
    ),
    'at': Paper(
        'zagoruyko2017at',
        'Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention '
        'Transfer',
        'Zagoruyko, Sergey and Komodakis, Nikos',
        ICLR,
        2017,
        '1612.03928',
    ),
    'vid': Paper(
        'ahn2019vid',
        'Variational Information Distillation for Knowledge Transfer',
        'Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen',
        CVPR,
        2019,
        '1904.05835',
    ),
    'byot': Paper(
        'zhang2019byot',
        'Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation',
        'Zhang, Linfeng and Song, Jiebo and Gao, Anni and Chen, Jingwei and Bao, Chenglong and Ma, Kaisheng',
        'IEEE/CVF International Conference on Computer Vision',
        2019,
        '1905.08094',
    ),
    'dskd': Paper(
        'luo2022dskd',
        'Deeply-Supervised Knowledge Distillation',
        'Luo, Shiya and Chen, Defang and Wang, Can',
        '',
        2022,
        '2202.07846',
    ),
}


def papers_of(method: str) -> list[Paper]:
    """The papers of a method or a sum of methods; none for 'baseline'."""
    return [PAPERS[name] for name in method.split('+') if name in PAPERS]
