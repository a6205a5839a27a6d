from . import io as io
from .config import PAPER as PAPER
from .config import SMALL as SMALL
from .config import InversionSettings as InversionSettings
from .config import ModelConfig as ModelConfig
from .config import RIMConfig as RIMConfig
from .config import RIMSettings as RIMSettings
from .config import WorkflowConfig as WorkflowConfig
from .errors import InputError as InputError
from .errors import InputWarning as InputWarning
from .inference.estimate import estimate_lens as estimate_lens
from .inference.linear.inversion import Inversion as Inversion
from .inference.linear.inversion import invert as invert
from .inference.optimise import optimise_lens as optimise_lens
from .inference.rim import reconstruct as reconstruct
from .inference.workflow import ModelResult as ModelResult
from .inference.workflow import model as model
from .lens import Component as Component
from .lens import CompositeLens as CompositeLens
from .lens import LensParameters as LensParameters
from .models.pretrained import load_pretrained as load_pretrained
from .models.rim import RIM as RIM
from .observation import Observation as Observation
from .observation import centred_psf as centred_psf
from .results import Reconstruction as Reconstruction
from .results import SourceFit as SourceFit

__version__: str
