"""Checks a torch device: values, whole runs, speed; see tools/maintain/gpu_check.sh."""
