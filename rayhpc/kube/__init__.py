"""Ray clusters on Kubernetes, by kubectl and the KubeRay operator."""
