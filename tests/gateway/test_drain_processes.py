"""A gateway by itself that is taken out on purpose: its peers are redirected, and lose nothing."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.processes import PORT, PORT_NAT_T, Gateway, document, two_gateways, until


def test_a_peer_goes_where_it_is_sent(place: Path) -> None:
    with two_gateways(place) as pair:
        here = pair.documents["alice"]["connections"]["home"]["local_addrs"]
        there = here.removesuffix(".1") + ".3"
        made = document("bob", "alice", there, here, "10.0.1.0/24", "10.0.0.0/24")
        ends = {"unix_local": "carol-gw", "unix_peer": "carol-host"}
        made["gateway"] |= {"state_dir": "carol-state", "control": "carol.sock"} | ends
        carol = Gateway(place, "carol", made)
        try:
            carol.start()
            pair.start()
            done = pair.bob.command("drain", "--to", there)
            assert (done.returncode, done.stdout) == (0, "1 IKE SAs have gone\n"), done.stderr
            assert pair.bob.sas() == []
            [sa] = pair.alice.sas()
            assert sa["remote"] in (f"{there}:{PORT}", f"{there}:{PORT_NAT_T}")
            assert len(carol.sas()) == 1
            assert not [event for event in pair.alice.events() if event["event"] == "verdict"]
            again = pair.bob.command("drain", "--json")
            assert (again.returncode, '"text": "1 IKE SAs have gone"' in again.stdout) == (0, True)
            assert pair.bob.terminate() == 0
            assert len(pair.alice.sas()) == 1
        finally:
            carol.close()


def test_its_doors_are_closed(place: Path) -> None:
    """Redirected to the same address, as behind a balancer: it does not come back to the drained one."""
    with two_gateways(place) as pair:
        pair.start()
        done = pair.bob.command("drain", "--timeout", "40")
        assert (done.returncode, done.stdout) == (0, "1 IKE SAs have gone\n"), done.stderr
        until(lambda: pair.bob.sas() == [], pair.bob.log)
        assert not pair.ping(0.3)
