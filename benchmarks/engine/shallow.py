"""The shipped shallow encoder, made from the trained control of few layers: one command, to be run again at will.

    python -m benchmarks.engine.shallow controls/layers.safetensors

The control is trained in the form of a routed encoder in which everything always works. Here it becomes a dense one:
the same vectors, with no routers to read or to explain. The file in `engine/models/` and the record of its sha256 are
written, and both forms are compared.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from engine.errors import EngineError, ModelFileError
from engine.model.config import EncoderConfig, RoutedConfig, ShallowConfig
from engine.model.dense import DenseEncoder, pack
from engine.model.routed import RoutedEncoder
from engine.weights.in_memory import load_stored_model
from engine.weights.routed_file import write_shallow
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import MODELS, SHIPPED

CLOSE = 1e-5
"""Most that a number of a vector may differ between the two forms."""
SAMPLE = pack([range(20), range(7)])


def main() -> None:
    """Write the shipped file and its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("control", type=Path, help="file of a control, such as controls/layers.safetensors")
    parser.add_argument("--output", type=Path, default=MODELS / f"{SHIPPED['shallow']}.safetensors")
    arguments = parser.parse_args()
    try:
        difference = write(arguments.control, arguments.output)
    except (EngineError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"Written: {arguments.output} and its .json; no number of a vector differs by more than {difference:.1e}.")


def write(control: Path, output: Path) -> float:
    """Write the shallow form of a control, and a record of its sha256; the largest difference of a vector's numbers.

    Raises:
        ModelFileError: the control is damaged, has parts that do not always work, or all of its parent's layers.
        OptionError: the output cannot be written.
        OSError: the control cannot be read, or the record not written.
    """
    with TensorFile(control) as file:
        source, tokenizer = load_stored_model(file)
        notes = {key: value for key, value in file.metadata.items() if key not in ("config", "format")}
        sha256 = file.sha256
    if not isinstance(source, RoutedEncoder):
        raise ModelFileError(f"{control.name} is no routed encoder; a shallow one is made of one.")
    config = source.config
    if len(config.budgets) > 1:
        raise ModelFileError(f"{control.name} has {len(config.budgets)} budgets; a shallow encoder has none.")
    notes |= {"layers": ",".join(map(str, config.kept)), "source_sha256": sha256}
    model = as_dense(source)
    if not isinstance(model.config, ShallowConfig):
        raise ModelFileError(f"{control.name} has all {model.config.layers} layers of its parent; it is not shallow.")
    write_shallow(output, model, tokenizer, notes)
    with TensorFile(output) as file:
        written, _ = load_stored_model(file)
        record = {"file": output.name, "sha256": file.sha256, "bytes": output.stat().st_size}
    assert isinstance(written, DenseEncoder)
    output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return _difference(written, source)


def as_dense(model: RoutedEncoder) -> DenseEncoder:
    """The dense encoder that computes what a routed one does with everything on."""
    config = _dense_config(model.config)
    width, heads = config.width, config.heads
    state = {
        name: model.state_dict()[name] for name in ("tokens.weight", "positions.weight", "norm.weight", "norm.bias")
    }
    for place in range(config.layers):
        layer, ours = model.layer(place), f"layers.{place}."
        attention, feed_forward = layer.attention, layer.feed_forward
        # Routed: query, key and value of one head stand together. Dense: the queries of all heads do, and so on.
        qkv = torch.cat([attention.shared_qkv, attention.qkv.transpose(0, 1).reshape(width, -1)], dim=1)
        bias = torch.cat([attention.shared_qkv_bias, attention.qkv_bias.flatten()])
        state[f"{ours}attention.qkv.weight"] = qkv.view(width, heads, 3, -1).transpose(1, 2).reshape(width, -1)
        state[f"{ours}attention.qkv.bias"] = bias.view(heads, 3, -1).transpose(0, 1).flatten()
        state[f"{ours}attention.output.weight"] = torch.cat([attention.shared_output, attention.output.view(-1, width)])
        state[f"{ours}attention.output.bias"] = attention.bias
        up = feed_forward.up.transpose(0, 1).reshape(width, -1)
        state[f"{ours}feed_forward.up.weight"] = torch.cat([feed_forward.shared_up, up], dim=1)
        state[f"{ours}feed_forward.up.bias"] = torch.cat([feed_forward.shared_up_bias, feed_forward.up_bias.flatten()])
        down = feed_forward.down.view(-1, width)
        state[f"{ours}feed_forward.down.weight"] = torch.cat([feed_forward.shared_down, down])
        state[f"{ours}feed_forward.down.bias"] = feed_forward.bias
        for norm in ("attention_norm", "feed_forward_norm"):
            state |= {f"{ours}{norm}.{key}": value for key, value in getattr(layer, norm).state_dict().items()}
    with torch.device("meta"):
        dense = DenseEncoder(config)
    dense.load_state_dict({name: value.detach().contiguous() for name, value in state.items()}, assign=True)
    dense.eval().requires_grad_(False)
    difference = _difference(dense, model)
    assert difference < CLOSE, f"the dense form of a control differs by {difference}"
    return dense


def _dense_config(config: RoutedConfig) -> EncoderConfig:
    dense = replace(config.base, layers=len(config.kept))
    if dense.layers == config.base.layers:
        return dense
    return ShallowConfig(**asdict(dense), parent_layers=config.base.layers)


def _difference(dense: DenseEncoder, routed: RoutedEncoder) -> float:
    """The largest difference of a vector's numbers, of a few texts."""
    with torch.inference_mode():
        return float((dense(SAMPLE) - routed(SAMPLE, len(routed.config.budgets) - 1)).abs().max())


if __name__ == "__main__":
    main()
