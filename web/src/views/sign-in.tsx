// The way in: a name and a password, or the token that `kennel cluster init` wrote.

import { useState } from "preact/hooks";
import { post, problemOf } from "../data/api";
import { session } from "../data/store";
import { connect } from "../data/stream";
import type { Problem, SessionView } from "../data/types";
import { Button } from "../parts/basic";
import { Field } from "../parts/dialog";

export function SignInView() {
  const [way, setWay] = useState<"password" | "token">("password");
  const [fields, setFields] = useState({ user: "", password: "", token: "" });
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const set = (name: keyof typeof fields) => (event: { currentTarget: HTMLInputElement }) => {
    const { value } = event.currentTarget;
    setFields((old) => ({ ...old, [name]: value }));
    setProblem(null);
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    const { user, password, token } = fields;
    try {
      session.value = await post<SessionView>("/v1/session", way === "token" ? { token } : { user, password });
      connect();
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  const wrong = problem
    ? `${problem.why[0]?.toUpperCase()}${problem.why.slice(1)}. ${problem.instead[0]?.toUpperCase()}${problem.instead.slice(1)}.`
    : undefined;
  return (
    <main class="sign-in">
      <form onSubmit={(event) => void submit(event)}>
        <img src="/favicon.svg" alt="" width="44" height="44" />
        <h1>Kennel</h1>
        <p class="note">{location.host}</p>
        {way === "password" ? (
          <>
            <Field label="Name" name="user">
              <input
                id="user"
                name="username"
                autocomplete="username"
                required
                value={fields.user}
                onInput={set("user")}
              />
            </Field>
            <Field label="Password" name="password" wrong={wrong}>
              <input
                id="password"
                type="password"
                autocomplete="current-password"
                required
                aria-invalid={wrong !== undefined}
                aria-describedby="password-wrong"
                value={fields.password}
                onInput={set("password")}
              />
            </Field>
          </>
        ) : (
          <Field
            label="Token"
            name="token"
            wrong={wrong}
            hint="It stands in the client configuration that “kennel cluster init” wrote."
          >
            <input
              id="token"
              type="password"
              autocomplete="off"
              required
              aria-invalid={wrong !== undefined}
              aria-describedby="token-wrong"
              value={fields.token}
              onInput={set("token")}
            />
          </Field>
        )}
        <Button type="submit" kind="main" disabled={busy}>
          {busy ? "Asking…" : "Sign in"}
        </Button>
        <button
          type="button"
          class="quiet"
          onClick={() => {
            setWay(way === "token" ? "password" : "token");
            setProblem(null);
          }}
        >
          {way === "token" ? "Sign in with a password instead" : "Sign in with a token instead"}
        </button>
      </form>
    </main>
  );
}
