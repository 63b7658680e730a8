"""What routers do, in nftables' words."""

from __future__ import annotations

from tests.network.internet import TURN

NAT = """
table ip nat {
    chain out {
        type nat hook postrouting priority 100
        oifname "wan0" masquerade random,fully-random
    }
}
table ip guard {
    chain through {
        type filter hook forward priority 0; policy accept
        iifname "wan0" ct state new drop
    }
}
"""
"""Many hosts behind one address, a new port for each destination; nothing enters unasked."""

CLOSED = """
table ip filter {
    chain through {
        type filter hook forward priority 0; policy drop
    }
}
"""
"""Nothing passes."""


def one_to_one(inside: str, outside: str, first_port: int, last_port: int) -> str:
    """Return rules that give a host an address of its own outside (1:1 NAT), with these UDP ports open."""
    return f"""
table ip nat {{
    chain in {{
        type nat hook prerouting priority -100
        iifname "wan0" ip daddr {outside} dnat to {inside}
    }}
    chain out {{
        type nat hook postrouting priority 100
        oifname "wan0" ip saddr {inside} snat to {outside}
    }}
}}
table ip filter {{
    chain through {{
        type filter hook forward priority 0; policy drop
        ct state established,related accept
        iifname "lan0" accept
        udp dport {first_port}-{last_port} accept
    }}
}}
"""


def only_turn(protocol: str, port: int) -> str:
    """Return rules of a NAT whose firewall lets nothing out but one port of the TURN server."""
    return f"""{NAT}
table ip filter {{
    chain through {{
        type filter hook forward priority 0; policy drop
        ct state established,related accept
        iifname "lan0" ip daddr {TURN} {protocol} dport {port} accept
    }}
}}
"""
