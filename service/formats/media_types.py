"""Media types of the formats that hold tensors."""

MSGPACK = "application/msgpack"
JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
NPZ = "application/x-npz"
NPY = "application/x-npy"
