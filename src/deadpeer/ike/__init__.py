"""IKEv2 (RFC 7296), sans-IO: endpoint, IKE SA, child SA, exchanges."""
