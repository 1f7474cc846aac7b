"""Exports a tuned prompt and runs the exported program, which needs neither PyTorch nor SharpZO, on a folder of pictures.

python examples/onnx_on_a_folder.py RUN PICTURES OUTPUT
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.export.__main__ import main

run, pictures, output = sys.argv[1:]
status = main([run, "--output", output, "--no-checks"])
if status:
    sys.exit(status)
sys.exit(subprocess.call([sys.executable, str(Path(output) / "predict_onnx.py"), pictures]))
