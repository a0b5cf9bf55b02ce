"""sentence-transformers in one of its backends.

    python -m benchmarks.peers.embedding BACKEND MODEL_FOLDER WORK_FOLDER THREADS DEVICE

Answers each line of JSON on standard input, a list of texts, with a line when it has their vectors.
"""

import json
import sys
from pathlib import Path
from typing import Any


def _load(backend: str, source: str, work: Path, device: str) -> Any:
    """A model: "torch" in float32; on the CPU only, "onnx" and "openvino" in 8 bits as their own helpers make it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import backend as helpers

    if backend == "torch":
        return SentenceTransformer(source, device=device)
    vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
    target = "avx512_vnni" if vnni else "avx2"
    folder = work / f"{backend}-{target}"  # an export for another processor is left alone
    if not (folder / ".done").exists():
        model = SentenceTransformer(source, device="cpu", backend=backend)
        model.save_pretrained(str(folder))
        if backend == "onnx":
            helpers.export_dynamic_quantized_onnx_model(model, target, str(folder), file_suffix="int8")
        else:
            # Calibrated on the benchmark's own texts: the default set would be fetched.
            names = {"dataset_config_name": "default", "dataset_split": "train", "column_name": "text"}
            helpers.export_static_quantized_openvino_model(
                model, None, str(folder), dataset_name=str(work / "calibration"), file_suffix="int8", **names
            )
        (folder / ".done").touch()  # an export that was cut off is made anew
    [file] = [path for path in (folder / backend).iterdir() if "int8" in path.name and path.suffix in (".onnx", ".xml")]
    return SentenceTransformer(
        str(folder), device="cpu", backend=backend, model_kwargs={"file_name": f"{backend}/{file.name}"}
    )


def main() -> None:
    """Serve."""
    import torch

    backend, source, work, threads, device = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    model = _load(backend, source, Path(work), device)
    model.max_seq_length = 256
    print("siftline ready", flush=True)
    for line in sys.stdin:
        model.encode(json.loads(line), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        print("siftline done", flush=True)


if __name__ == "__main__":
    main()
