"""Everything that is changed in the seeds' code blocks before they run. Nothing else may be.

`kind` says why a change is allowed: "broken" marks a statement that fails in every implementation
(spec section 7), with its smallest correction; the others adapt a block to this machine.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "import", "path", "device", "image source", "image area", "token limit", "mindspore", "broken"
]


@dataclass(frozen=True)
class Substitution:
    """One change, in every block whose name begins with an entry of `blocks`."""

    kind: Kind
    find: str
    replace: str
    reason: str
    blocks: tuple[str, ...]
    regex: bool = False

    def apply(self, text: str) -> str:
        if self.regex:
            return re.sub(self.find, self.replace, text)
        return text.replace(self.find, self.replace)


SUBSTITUTIONS = [
    # --- broken: fails in every implementation ------------------------------------------------
    # These come first: they find the seeds' own words.
    Substitution(
        "broken",
        "import Emu3Processor, Emu3ForConditionalGeneration",
        "import Emu3Processor, Emu3ForCausalLM",
        "uses Emu3ForCausalLM, which the page nowhere imports: NameError",
        ("000 causal language model",),
    ),
    Substitution(
        "broken",
        "neg_inputs.input_ids.to(",
        "torch.from_numpy(neg_inputs.input_ids).to(",
        'return_tensors="np" gives arrays, which have no .to: AttributeError',
        ("001 generation",),
    ),
    Substitution(
        "broken",
        "del processor\n",
        "",
        "the processor is used again below: NameError",
        ("002 understanding",),
    ),
    Substitution(
        "broken",
        "elif generation_mode",
        "if generation_mode",
        "quoted from the middle of a chain of conditions: SyntaxError",
        ("002 generate branch",),
    ),
    # --- imports ------------------------------------------------------------------------------
    Substitution(
        "import",
        "from transformers import Emu3",
        "from dromaius.compat.transformers import Emu3",
        "the module under test",
        ("000",),
    ),
    Substitution(
        "import",
        "import requests\n",
        "",
        "pictures are local files",
        ("000",),
    ),
    Substitution(
        "import",
        "from emu3.mllm.processing_emu3 import",
        "from dromaius.compat.baai import",
        "the module under test",
        ("001 understanding", "002 generation", "002 understanding"),
    ),
    Substitution(
        "import",
        "from emu3.mllm import",
        "from dromaius.compat.baai import",
        "the module under test",
        ("001 generation", "001 understanding"),
    ),
    Substitution(
        "import",
        "from emu3.tokenizer import",
        "from dromaius.compat.baai import",
        "the module under test",
        ("001",),
    ),
    Substitution(
        "import",
        "from transformers import Auto",
        "from dromaius.compat.baai import Auto",
        "the module under test: Auto classes that run no repository's code",
        ("002 generation", "002 understanding"),
    ),
    # --- paths --------------------------------------------------------------------------------
    Substitution(
        "path",
        '"Emu3-community/Emu3-Chat-hf"',
        "{hf}",
        "a tiny checkpoint in the -hf layout",
        ("000",),
    ),
    Substitution(
        "path",
        '"Emu3-community/Emu3-Gen-hf"',
        "{hf}",
        "a tiny checkpoint in the -hf layout",
        ("000",),
    ),
    Substitution(
        "path",
        '"BAAI/Emu3-Gen"',
        "{baai_lm}",
        "a tiny checkpoint in BAAI's layout",
        ("001", "002"),
    ),
    Substitution(
        "path",
        '"BAAI/Emu3-Chat"',
        "{baai_lm}",
        "a tiny checkpoint in BAAI's layout",
        ("001", "002"),
    ),
    Substitution(
        "path",
        '"BAAI/Emu3-VisionTokenizer"',
        "{baai_vq}",
        "a tiny vision tokenizer in BAAI's layout",
        ("001", "002"),
    ),
    Substitution(
        "path",
        '"YOUR_VIDEO_FRAMES_PATH"',
        "{frames}",
        "a folder of eight small frames",
        ("001 autoencoding",),
    ),
    # --- device -------------------------------------------------------------------------------
    Substitution(
        "device",
        '"cuda:0"',
        '"cpu"',
        "no GPU is asked for",
        ("000", "001", "002"),
    ),
    Substitution(
        "device",
        'device_map="cuda"',
        'device_map="cpu"',
        "no GPU is asked for",
        ("000",),
    ),
    # --- image source -------------------------------------------------------------------------
    Substitution(
        "image source",
        r"requests\.get\(.*?stream=True\)\.raw",
        "{picture}",
        "no network",
        ("000",),
        regex=True,
    ),
    Substitution(
        "image source",
        '"assets/demo.png"',
        "{picture}",
        "a file of the seed's repository",
        ("001 understanding", "002 understanding"),
    ),
    # --- image area ---------------------------------------------------------------------------
    Substitution(
        "image area",
        "return_for_image_generation=True,",
        "return_for_image_generation=True, image_area=48 * 48,",
        "6x6 codes instead of 90x90",
        ("000 generation",),
    ),
    Substitution(
        "image area",
        "image_area=model.config.image_area",
        "image_area=48 * 48",
        "6x6 codes instead of 90x90",
        ("001 generation", "002 generation"),
    ),
    # --- token limit --------------------------------------------------------------------------
    Substitution(
        "token limit",
        r"max_new_tokens=(50|100|1024)\b",
        "max_new_tokens=8",
        "a random model never stops by itself",
        ("000", "001 understanding", "002 understanding"),
        regex=True,
    ),
    # --- mindspore ----------------------------------------------------------------------------
    Substitution(
        "mindspore",
        "import mindspore as ms\n",
        "import torch\n",
        "torch plays mindspore's part",
        ("001",),
    ),
    Substitution(
        "mindspore",
        "from mindspore import Tensor, nn\n",
        "",
        "torch plays mindspore's part",
        ("001",),
    ),
    Substitution(
        "mindspore",
        "from mindone.transformers.generation.logits_process import",
        "from transformers.generation import",
        "mindone's copies of transformers' classes",
        ("001 generation",),
    ),
    Substitution(
        "mindspore",
        "from mindone.utils.amp import auto_mixed_precision\n",
        "",
        "see the next entry",
        ("001",),
    ),
    Substitution(
        "mindspore",
        r"\w+ = auto_mixed_precision\([^)]*\)\n",
        "",
        "sets precision by layer; the vision tokenizer is float32 here whatever is asked",
        ("001",),
        regex=True,
    ),
    Substitution("mindspore", "ms.bfloat16", "torch.bfloat16", "torch's name", ("001",)),
    Substitution("mindspore", "mindspore_dtype=", "torch_dtype=", "torch's name", ("001",)),
    Substitution("mindspore", ".set_train(False)", ".eval()", "torch's name", ("001",)),
    Substitution(
        "mindspore",
        "dtype=ms.int32",
        "dtype=torch.int32",
        "torch's name",
        ("001 generation", "001 understanding"),
    ),
    Substitution("mindspore", "ops.cat(", "torch.cat(", "torch's name", ("001 generation",)),
    Substitution("mindspore", r"(?<!\w)Tensor\(", "torch.tensor(", "torch's name", ("001",), True),
]
