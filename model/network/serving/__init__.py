"""The engine `cuda`: the graph of fixed shapes, in half precision, replayed as CUDA graphs."""
