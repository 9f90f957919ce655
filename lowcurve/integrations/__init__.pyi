from . import lightning as lightning
from . import loops as loops
from . import maite as maite
from . import torchmetrics as torchmetrics
from . import transformers as transformers
