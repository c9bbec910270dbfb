"""Brings a trained mobile model to the phones: conversion, the on-device gate, publishing, staged rollout."""
