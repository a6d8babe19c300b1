// What guests attach to, and who holds which address.

import { useState } from "preact/hooks";
import { post, remove } from "../data/api";
import { byName, isLive, store } from "../data/store";
import type { NetworkView } from "../data/types";
import { Button, Card, Empty, Facts, GuestLink, Head } from "../parts/basic";
import { Confirm, Field } from "../parts/dialog";

export function NetworksView() {
  const [gone, setGone] = useState<string | null>(null);
  const [making, setMaking] = useState(false);
  const networks = [...store.networks.value.values()].sort(byName);
  return (
    <>
      <Head title="Networks">
        <Button kind="main" disabled={!isLive.value} onClick={() => setMaking(true)}>
          Create a network
        </Button>
      </Head>
      {networks.length === 0 && <Empty>There is no network.</Empty>}
      {networks.map((network) => (
        <Network key={network.name} network={network} onDelete={() => setGone(network.name)} />
      ))}
      {making && <Create onClose={() => setMaking(false)} />}
      {gone && (
        <Confirm
          title={`Delete the network ${gone}?`}
          verb="Delete"
          danger
          consequences={["Its bridge goes from every host.", "It is refused while a guest is on it."]}
          onClose={() => setGone(null)}
          onYes={() => remove(`/v1/networks/${gone}`)}
        />
      )}
    </>
  );
}

function Network({ network: { name, network, addresses }, onDelete }: { network: NetworkView; onDelete: () => void }) {
  return (
    <Card
      title={name}
      more={
        <button
          type="button"
          class="quiet"
          disabled={!isLive.value}
          onClick={onDelete}
          aria-label={`Delete the network ${name}`}
        >
          Delete
        </button>
      }
    >
      <Facts
        of={[
          ["Subnet", <span class="mono">{network.subnet}</span>],
          ["Gateway", network.gateway ?? <span class="faint">none</span>],
          ["MTU", network.mtu],
        ]}
      />
      {addresses.length > 0 && (
        <ul class="guest-list">
          {addresses.map(({ address, guest }) => (
            <li key={address}>
              <span class="mono">{address}</span>
              <GuestLink name={guest} />
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Create({ onClose }: { onClose: () => void }) {
  const [form, setForm] = useState({ name: "", subnet: "", gateway: "", mtu: "" });
  const bind = (name: keyof typeof form) => ({
    id: `network-${name}`,
    value: form[name],
    onInput: (event: { currentTarget: HTMLInputElement }) => {
      const { value } = event.currentTarget;
      setForm((old) => ({ ...old, [name]: value }));
    },
  });
  const request = () => ({
    name: form.name,
    subnet: form.subnet,
    ...(form.gateway ? { gateway: form.gateway } : {}),
    ...(form.mtu ? { mtu: Number(form.mtu) } : {}),
  });
  return (
    <Confirm
      title="Create a network"
      verb="Create"
      consequences={["Each host gets a bridge for it. How it leaves a host stands in that host's own configuration."]}
      onClose={onClose}
      onYes={() => post("/v1/networks", request())}
    >
      <Field label="Name" name="network-name">
        <input {...bind("name")} required />
      </Field>
      <Field label="Subnet" name="network-subnet" hint="Where guests get their addresses from, as in 10.91.0.0/24.">
        <input {...bind("subnet")} required />
      </Field>
      <div class="field-row">
        <Field label="Gateway" name="network-gateway">
          <input {...bind("gateway")} placeholder="none" />
        </Field>
        <Field label="MTU" name="network-mtu">
          <input {...bind("mtu")} placeholder="1500" inputMode="numeric" />
        </Field>
      </div>
    </Confirm>
  );
}
