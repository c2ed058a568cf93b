"""What the cluster under test can do."""
from cluster import ROOT

# The peers of a lost worker go on without a replacement. Before worker.proto had Begin, the router waited for one.
SURVIVORS_GO_ON = "message Begin " in (ROOT / "proto/braid/v1/worker.proto").read_text()
