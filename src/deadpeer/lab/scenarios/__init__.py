"""The lab's use cases beside a reboot: a gateway that forgets and lives, a cluster that loses members."""
