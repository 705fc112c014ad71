"""Media types of bodies that are not media."""

MSGPACK = "application/msgpack"
JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
NPZ = "application/x-npz"
NPY = "application/x-npy"
OCTET_STREAM = "application/octet-stream"
PROBLEM_TYPE = "application/problem+json"
