// Operations of several steps: those that run, and those that ran.

import { useState } from "preact/hooks";
import { post } from "../data/api";
import { hasEnded, isLive, jobs, runningJobs } from "../data/store";
import type { JobView } from "../data/types";
import { Ago, Bar, Button, Card, COLOURS, Dot, Empty, Head, State } from "../parts/basic";
import { Refusal, useDeed } from "../parts/dialog";

const colourOf = (job: JobView) => (job.state === "running" ? "busy" : (COLOURS[job.state] ?? "idle"));

export function JobRow({ job, open = false }: { job: JobView; open?: boolean }) {
  const [isOpen, setOpen] = useState(open);
  const ended = hasEnded(job);
  return (
    <article class="job">
      <button type="button" class="job-head" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
        <Dot colour={colourOf(job)} />
        <span class="job-what">{job.what}</span>
        <span class="job-state">{ended ? job.state : `${Math.round(job.progress * 100)}%`}</span>
        <Ago at={job.report?.ended_at ?? job.spec.created_at} />
      </button>
      {!ended && <Bar share={job.progress * 100} label={`${job.what}: ${Math.round(job.progress * 100)}% done`} />}
      {job.message && <p class="note">{job.message}</p>}
      {isOpen && <Steps job={job} />}
    </article>
  );
}

function Steps({ job }: { job: JobView }) {
  const { busy, problem, run } = useDeed(
    () => post(`/v1/jobs/${job.id}/cancel`),
    () => undefined,
  );
  return (
    <div class="steps">
      <ol>
        {(job.report?.steps ?? []).map((step, index) => (
          <li key={index}>
            <State of={step.state === "running" ? "starting" : step.state} text={step.name} />
            <span class="faint">{step.note ?? (step.state === "running" ? "now" : step.state)}</span>
          </li>
        ))}
      </ol>
      <p class="faint">
        Asked for by {job.spec.requested_by}, <Ago at={job.spec.created_at} />. Job {job.id}
      </p>
      <Refusal problem={problem} />
      {!hasEnded(job) && (
        <Button disabled={busy || job.spec.cancel || !isLive.value} onClick={() => void run()}>
          {job.spec.cancel ? "Is to be cancelled" : "Cancel this job"}
        </Button>
      )}
    </div>
  );
}

export function JobsView({ open }: { open: string | undefined }) {
  const ended = jobs.value.filter(hasEnded);
  return (
    <>
      <Head title="Jobs" note="A job goes on when the host that runs it dies: another one takes it up." />
      <Card title="Running">
        {runningJobs.value.length === 0 ? (
          <Empty>No job is running.</Empty>
        ) : (
          runningJobs.value.map((job) => <JobRow key={job.id} job={job} open />)
        )}
      </Card>
      <Card title="Ended">
        {ended.length === 0 ? (
          <Empty>No job has ended yet.</Empty>
        ) : (
          ended.map((job) => <JobRow key={job.id} job={job} open={job.id === open} />)
        )}
      </Card>
    </>
  );
}
