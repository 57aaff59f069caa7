"""`rayhpc kube …`: Ray clusters on Kubernetes, where the KubeRay operator runs."""
