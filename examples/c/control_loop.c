/*
 * A control loop in C: an exported policy.c and the MuJoCo C library, no Python; counts missed deadlines.
 *
 *     srpo export RUN --to robot/
 *     make -C examples/c POLICY=$PWD/robot/policy.c run
 *
 * The model is one of Gymnasium's planar walkers (HalfCheetah, Hopper, Walker2d), whose observation is all positions but
 * the first, then all velocities. Every tick observes, acts and steps once: simulated time passes faster than real time.
 */
#define _GNU_SOURCE
#include <mujoco/mujoco.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int policy_obs_size(void);
int policy_act_size(void);
void policy_act(const float obs[], float action[]);
#ifdef HAVE_POLICY_FAR
int policy_far(const float obs[]);
#else
static int policy_far(const float obs[]) /* no statistics in the file: NaN only */
{
    for (int i = 0; i < policy_obs_size(); i++)
        if (obs[i] != obs[i]) return 1;
    return 0;
}
#endif

enum { MAX_SIGNALS = 256, EPISODE = 1000 };

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void wait_until(long long deadline)
{
    struct timespec t = {deadline / 1000000000LL, deadline % 1000000000LL};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int larger(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *name, double *us, long n)
{
    qsort(us, (size_t)n, sizeof *us, larger);
    printf("  %-10s median %.1f us  p99 %.1f us  worst %.1f us\n", name, us[n / 2], us[n * 99 / 100], us[n - 1]);
}

static void observe(const mjModel *m, const mjData *d, float obs[])
{
    for (int i = 1; i < m->nq; i++) obs[i - 1] = (float)d->qpos[i];
    for (int i = 0; i < m->nv; i++) obs[m->nq - 1 + i] = (float)d->qvel[i];
}

static void act(const float obs[], float action[], int n, long *far)
{
    if (policy_far(obs)) { /* the fall-back: let go */
        memset(action, 0, (size_t)n * sizeof *action);
        ++*far;
    } else {
        policy_act(obs, action);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) return fprintf(stderr, "usage: %s MODEL.xml STEPS_PER_TICK RATE_HZ SECONDS\n", argv[0]), 2;
    char complaint[500] = "";
    mjModel *m = mj_loadXML(argv[1], NULL, complaint, sizeof complaint);
    const int skip = atoi(argv[2]), n = policy_act_size();
    const double rate = atof(argv[3]);
    const long ticks = (long)(rate * atof(argv[4]));
    if (!m || skip < 1 || rate <= 0 || ticks < 1) return fprintf(stderr, "%s\n", m ? "expected positive numbers" : complaint), 2;
    if (m->nq - 1 + m->nv != policy_obs_size() || m->nu != n || policy_obs_size() > MAX_SIGNALS || n > MAX_SIGNALS)
        return fprintf(stderr, "the policy has %d observations and %d actions, the model %d and %d\n", policy_obs_size(), n,
                       (int)(m->nq - 1 + m->nv), (int)m->nu), 2;
    mjData *d = mj_makeData(m);
    double *acting = malloc((size_t)ticks * sizeof *acting), *whole = malloc((size_t)ticks * sizeof *whole);
    float obs[MAX_SIGNALS], action[MAX_SIGNALS];
    long missed = 0, far = 0;
    double forward = 0.0, simulated = 0.0;
    const long long period = (long long)(1e9 / rate);
    if (!d || !acting || !whole) return fprintf(stderr, "out of memory\n"), 1;
    long long deadline = now() + period;
    for (long i = 0; i < ticks; i++) {
        const long long start = now();
        observe(m, d, obs);
        act(obs, action, n, &far);
        const long long acted = now();
        for (int j = 0; j < n; j++) d->ctrl[j] = action[j];
        for (int j = 0; j < skip; j++) mj_step(m, d);
        if ((i + 1) % EPISODE == 0 || i + 1 == ticks) {
            forward += d->qpos[0];
            simulated += d->time;
            mj_resetData(m, d);
        }
        const long long stop = now();
        acting[i] = (double)(acted - start) * 1e-3;
        whole[i] = (double)(stop - start) * 1e-3;
        if (stop > deadline) { /* skip the ticks that are lost, keep the rhythm */
            const long long lost = 1 + (stop - deadline) / period;
            missed += (long)lost;
            deadline += lost * period;
        }
        wait_until(deadline);
        deadline += period;
    }
    printf("%ld ticks at %g Hz: %ld deadlines missed\n", ticks, rate, missed);
    report("acting", acting, ticks);
    report("tick", whole, ticks);
    printf("  %.2f m/s forward in %.1f simulated seconds; fall-back in %ld ticks\n", forward / simulated, simulated, far);
    free(acting);
    free(whole);
    mj_deleteData(d);
    mj_deleteModel(m);
    return 0;
}
